"""What does a model make of a few photographs? One pass; norms, attention and features on the host.

Letters: b images, l layers (what enters the first block, then what leaves each), n patches, t
tokens, k heads, q queries, d channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from regvit_jax.analysis.look.opened import Opened, Photograph
from regvit_jax.analysis.outliers.streams import stream_norms
from regvit_jax.checkpoint import Params
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.tokens import TokenLayout, resolve_layers

MEAN_PATCH = "mean patch"
_AT_ONCE = 8  # images


class Seen(NamedTuple):
    """What one model made of the photographs."""

    title: str
    layout: TokenLayout
    pixels: UInt8[np.ndarray, "b h w 3"]
    """What the model saw, before normalisation."""
    norms: Float[np.ndarray, "b l t"]
    """L2 norms of all tokens."""
    attention: Float[np.ndarray, "b k q n"]
    """From the queries to the patches, in one block, in multiples of even attention over all
    tokens."""
    features: Float[np.ndarray, "b n d"]
    """Patches after the last LayerNorm."""

    @property
    def queries(self) -> tuple[str, ...]:
        """CLS and the registers, or the mean over the patches where there is neither."""
        return queries(self.layout)

    @property
    def ratios(self) -> Float[np.ndarray, "b l n"]:
        """Norms of the patches in units of the median patch of their image and layer."""
        patches = self.norms[:, :, self.layout.patches]
        return patches / np.maximum(np.median(patches, axis=-1, keepdims=True), 1e-12)


def queries(layout: TokenLayout) -> tuple[str, ...]:
    """Whose attention is shown."""
    return layout.special_names if layout.has_cls else (MEAN_PATCH, *layout.special_names)


def see(opened: Opened, photographs: Sequence[Photograph], block: int = -1) -> Seen:
    """What a model makes of photographs.

    Args:
      opened: The model.
      photographs: What it looks at.
      block: Whose attention is kept, from 0; negative ones count from the end.

    Raises:
      InputError: If one cannot be read, or there is no such block.
    """
    model, preprocess = opened.model, opened.preprocess
    (block,) = resolve_layers([block], model.config.depth)
    pixels = np.stack([preprocess.pixels(photograph.picture) for photograph in photographs])
    layout = model.layout(pixels.shape)

    def run(params, pixels):
        images = preprocess.normalise(pixels)
        return observe(model, params, images, block)

    compiled = jax.jit(run)
    parts = [
        jax.device_get(compiled(opened.params, pixels[i : i + _AT_ONCE]))
        for i in range(0, len(pixels), _AT_ONCE)
    ]
    norms, attention, features = map(np.concatenate, zip(*parts, strict=True))
    return Seen(opened.title, layout, pixels[..., :3], norms, attention, features)


def observe(model: DeiT3, params: Params, images: Float[jax.Array, "b h w c"], block: int):
    """Norms, attention in a block, and features of a batch, as `Seen` has them."""
    trace = model.apply({"params": params}, images, method="trace")
    assert isinstance(trace, ViTTrace)
    blocks = [kept for kept in trace.blocks if kept is not None]
    layout = model.layout(images.shape)
    return (
        stream_norms(trace),
        attention_to_patches(blocks[block].attn, layout),
        trace.normed[:, layout.patches],
    )


def attention_to_patches(
    attn: Float[jax.Array, "b k t t"], layout: TokenLayout
) -> Float[jax.Array, "b k q n"]:
    """Attention of the queries to the patches, in multiples of even attention over all tokens."""
    to_patches = attn[..., layout.patches]
    rows = [] if layout.has_cls else [to_patches[:, :, layout.patches].mean(axis=2, keepdims=True)]
    if layout.num_specials:
        rows.append(layout.special(to_patches))
    return jnp.concatenate(rows, axis=2) * layout.num_tokens
