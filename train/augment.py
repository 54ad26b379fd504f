"""What changes in a training image on the device? It is mirrored and its colours are changed.

Randomness is a key of (seed, step, index in the global batch): it knows of no workers, devices or
restarts. What happens on the host is in `train.crops`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, UInt8

from regvit_jax.chunks import CPU_TOKENS, chunk_size
from train.colour import adjust, apply_effect, draw_colours, to_pixels, to_planes
from train.recipe import DataConfig


def augment(
    rngs: Key[Array, " b"], pixels: UInt8[Array, "b h w 3"], data: DataConfig
) -> UInt8[Array, "b h w 3"]:
    """The images mirrored, reduced to one effect and jittered in colour, each by its own key.

    An accelerator changes all at once, a CPU one after the other: it blurs only those whose effect
    is the blur.

    Args:
      rngs: One key an image; an image depends on its own only.
      pixels: Cropped images.
      data: Says what may happen to them.
    """
    size = chunk_size(len(rngs), num_tokens=CPU_TOKENS)
    if size == len(rngs):
        return _augment(rngs, pixels, data)
    return jax.lax.map(lambda one: _augment(one[0][None], one[1][None], data)[0], (rngs, pixels))


def random_flip(rngs: Key[Array, " b"], pixels: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """Every other image mirrored, each by its own key."""
    is_flipped = jax.vmap(jax.random.bernoulli)(rngs)

    def flip(pixels: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
        return jnp.where(is_flipped[:, None, None, None], pixels[:, :, ::-1], pixels)

    return jax.lax.cond(is_flipped.any(), flip, lambda pixels: pixels, pixels)


def _augment(
    rngs: Key[Array, " b"], pixels: UInt8[Array, "b h w 3"], data: DataConfig
) -> UInt8[Array, "b h w 3"]:
    for_flip, for_colours = jax.vmap(jax.random.split, out_axes=1)(rngs)
    if data.flip:
        pixels = random_flip(for_flip, pixels)
    if not (data.three_augment or data.colour_jitter):
        return pixels
    planes, draw = to_planes(pixels), draw_colours(for_colours, data.colour_jitter)
    if data.three_augment:
        planes = apply_effect(planes, draw)
    return to_pixels(adjust(planes, draw) if data.colour_jitter else planes)
