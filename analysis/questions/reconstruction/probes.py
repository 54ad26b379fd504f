"""What reads pixels and positions out of a token? Dense layers, and the targets they aim at.

- Pixels, linear (primary): exact least squares, from sums over one pass in float64.
- Pixels, non-linear: dense, exact GELU, dense; the study's layers.
- Position, linear: softmax regression to the grid cell.

Pixels are predicted in the model's normalised space, channel by channel, in `patchify`'s order.

Reference: arXiv:2309.16588, section 2.2, for the linear probes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from regvit_jax.preprocess import Preprocess

HIDDEN_RATIO = 4
LAYERS = ("fc1", "fc2")

Dense = dict[str, Any]
"""A kernel (in, out) and a bias (out)."""
Mlp = dict[str, Dense]


class Probes(NamedTuple):
    """What was learned from one model's training tokens."""

    linear: Dense
    """To the pixels of the patch."""
    mlp: Mlp | None
    position: Dense
    """To the logits of the grid's cells."""
    channel_means: Float[np.ndarray, "3"]
    """Mean of the training pixels, normalised: the predictor that knows nothing."""


def normalised_patches(
    patches: UInt8[Array | np.ndarray, "*b v"], preprocess: Preprocess
) -> Float[Array, "*b v"]:
    """The targets: what the model sees of each patch."""
    colours = patches.reshape(*patches.shape[:-1], 1, patches.shape[-1] // 3, 3)
    return preprocess.normalise(colours).reshape(patches.shape)


def apply_dense(params: Dense, x: Float[Array | np.ndarray, "*b i"]) -> Float[Array, "*b o"]:
    """One dense layer."""
    out = jnp.matmul(x, params["kernel"], precision="highest")
    return out + jnp.reshape(params["bias"], (1,) * (out.ndim - 1) + (-1,))


def apply_mlp(params: Mlp, x: Float[Array | np.ndarray, "*b i"]) -> Float[Array, "*b o"]:
    """Dense, exact GELU, dense."""
    hidden = jax.nn.gelu(apply_dense(params["fc1"], x), approximate=False)
    return apply_dense(params["fc2"], hidden)


def token_l2(
    predicted: Float[Array | np.ndarray, "*b v"], targets: Float[Array | np.ndarray, "*b v"]
) -> Float[Array, "*b"]:
    """The L2 norm of each token's error, over the pixel values of its patch."""
    return jnp.sqrt(jnp.sum(jnp.square(predicted - targets), axis=-1))


def start_mlp(inputs: int, hidden: int, outputs: int, seed: int) -> Mlp:
    """Start values of the non-linear probe: torch's default for dense layers."""
    generator = np.random.default_rng(seed)
    params = {}
    for name, (rows, cols) in zip(LAYERS, ((inputs, hidden), (hidden, outputs)), strict=True):
        bound = rows**-0.5
        kernel, bias = (generator.uniform(-bound, bound, s) for s in ((rows, cols), (cols,)))
        params[name] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return params
