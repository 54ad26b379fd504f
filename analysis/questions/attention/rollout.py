"""Which patches does CLS's output draw on, through all blocks together?

Attention rollout: every block passes on half of what a token is and half of what it attends to,
mean over the heads; the blocks' matrices are multiplied.  Reference: arXiv:2005.00928 (Abnar and
Zuidema), with the residual of 0.5. It needs every row of every block's attention, so it is
computed for the few images that are shown.

Letters: b images, q = 1 + r queries (CLS, then the registers), t tokens, n patches.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from regvit_jax.checkpoint import Params
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

RESIDUAL = 0.5


def rollout(trace: ViTTrace, layout: TokenLayout) -> Float[Array, "b q n"]:
    """What CLS and the registers draw from every patch; a query's sum is at most 1."""
    rows: Any = layout.special(jnp.eye(layout.num_tokens))[None]
    for block in reversed(trace.blocks):
        assert block is not None
        mean = block.attn.mean(axis=1)
        rows = jnp.broadcast_to(rows, (len(mean), *rows.shape[1:]))
        passed_on = jnp.einsum("bqt,bts->bqs", rows, mean, precision="highest")
        rows = RESIDUAL * rows + (1 - RESIDUAL) * passed_on
    return rows[..., layout.patches]


def rollout_maps(
    model: DeiT3, params: Params, preprocess: Preprocess, pixels: UInt8[np.ndarray, "b h w v"]
) -> Float[np.ndarray, "b q gh gw"]:
    """The rollout of some images, one after the other, on the grid of patches."""
    layout = model.layout((preprocess.height, preprocess.width, 3))

    @jax.jit
    def of_one(params, image):
        images = preprocess.normalise(image[None])
        return rollout(model.apply({"params": params}, images, method="trace"), layout)[0]

    maps = np.stack([np.asarray(of_one(params, image)) for image in pixels])
    return maps.reshape(*maps.shape[:2], *layout.grid)
