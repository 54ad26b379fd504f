"""What changes in a training image on the device? It is mirrored and its colours are changed.

Randomness is a key of (seed, step, index in the global batch): it knows of no workers, devices or
restarts. What happens on the host is in `regvit_jax.train.crops`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Key, UInt8

from regvit_jax.train.colour import (
    ColourDraw,
    adjust,
    apply_effect,
    draw_colours,
    to_pixels,
    to_planes,
)
from regvit_jax.train.recipe import DataConfig
from regvit_jax.ways import ways


class AugmentDraw(NamedTuple):
    """What chance decided for each image."""

    is_flipped: Bool[Array, " b"]
    colours: ColourDraw


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
    if not (data.flip or data.three_augment or data.colour_jitter):
        return pixels
    draw = draw_augment(rngs, data)
    if ways().tokens_together is None:
        return apply_augment(pixels, draw, data)

    def change_one(one: tuple[Array, AugmentDraw]) -> Array:
        pixels, draw = jax.tree.map(lambda x: x[None], one)
        return apply_augment(pixels, draw, data)[0]

    return jax.lax.map(change_one, (pixels, draw))


def draw_augment(rngs: Key[Array, " b"], data: DataConfig) -> AugmentDraw:
    """Draws what `augment` does with each image."""
    for_flip, for_colours = jax.vmap(jax.random.split, out_axes=1)(rngs)
    is_flipped = jax.vmap(jax.random.bernoulli)(for_flip)
    return AugmentDraw(is_flipped, draw_colours(for_colours, data.colour_jitter))


def apply_augment(
    pixels: UInt8[Array, "b h w 3"], draw: AugmentDraw, data: DataConfig
) -> UInt8[Array, "b h w 3"]:
    """Does with each image what was drawn, as far as the recipe asks for it."""
    if data.flip:
        pixels = flip(pixels, draw.is_flipped)
    if not (data.three_augment or data.colour_jitter):
        return pixels
    planes = to_planes(pixels)
    if data.three_augment:
        planes = apply_effect(planes, draw.colours)
    return to_pixels(adjust(planes, draw.colours) if data.colour_jitter else planes)


def flip(pixels: UInt8[Array, "b h w 3"], is_flipped: Bool[Array, " b"]) -> UInt8[Array, "b h w 3"]:
    """Some of the images mirrored."""

    def mirror(pixels: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
        return jnp.where(is_flipped[:, None, None, None], pixels[:, :, ::-1], pixels)

    return jax.lax.cond(is_flipped.any(), mirror, lambda pixels: pixels, pixels)
