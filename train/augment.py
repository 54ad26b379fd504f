"""What changes in a training image? The crop on the host, the rest on the device.

On the host, randomness is a `numpy` generator of (seed, epoch, index in the source); on the device,
a key of (seed, step, index in the global batch): neither knows of workers, devices or restarts.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8
from PIL import Image

from regvit_jax.images import to_array

MAX_ASPECT = 4 / 3
CROP_TRIES = 10

Box = tuple[int, int, int, int]


def generator_of(seed: int, epoch: int, index: int) -> np.random.Generator:
    """Randomness of one image in one epoch, whatever thread or host reads it."""
    return np.random.default_rng((seed, epoch, index))


def random_resized_crop(
    image: Image.Image, size: int, min_area: float, generator: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """A random part of a photograph, resized to a square.

    Args:
      image: RGB.
      size: Side of the result, in pixels.
      min_area: Smallest part of the image's area.
      generator: Decides where.

    Reference: `RandomResizedCrop` of torchvision.
    """
    box = crop_box(image.width, image.height, min_area, generator)
    return to_array(image.crop(box).resize((size, size), Image.Resampling.BICUBIC))


def crop_box(width: int, height: int, min_area: float, generator: np.random.Generator) -> Box:
    """Left, top, right and bottom of a random crop; the centre where no try fits."""
    for _ in range(CROP_TRIES):
        area = width * height * generator.uniform(min_area, 1.0)
        aspect = math.exp(generator.uniform(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = (int(generator.integers(room + 1)) for room in (width - w, height - h))
            return left, top, left + w, top + h
    w, h = min(width, round(height * MAX_ASPECT)), min(height, round(width * MAX_ASPECT))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def random_flip(rngs: Key[Array, " b"], pixels: UInt8[Array, "b h w 3"]) -> UInt8[Array, "b h w 3"]:
    """Every other image mirrored, each by its own key."""
    is_flipped = jax.vmap(jax.random.bernoulli)(rngs)
    return jnp.where(is_flipped[:, None, None, None], pixels[:, :, ::-1], pixels)
