"""Which part of a photograph is a training image? Chosen and resized on the host.

Randomness is a `numpy` generator of (seed, epoch, place in the epoch): it knows of no threads,
hosts or restarts, and an image shown several times in an epoch is cropped each time anew.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from regvit_jax.images import to_array

MAX_ASPECT = 4 / 3
CROP_TRIES = 10
EDGE = 4

Box = tuple[int, int, int, int]


class Crop(NamedTuple):
    """A part of an image, what it is resized to, and a square of that."""

    box: Box
    """Left, top, right, bottom, in pixels of the upright file."""
    width: int
    """Width of the resized part."""
    height: int
    """Height of the resized part."""
    left: int = 0
    """Left edge of the square in the resized part; beyond its edges lies its mirror image."""
    top: int = 0
    """Top edge of the square in the resized part."""

    @property
    def scale(self) -> float:
        """Pixels of the file for one of the result, along the side that is reduced less."""
        left, top, right, bottom = self.box
        return min((right - left) / self.width, (bottom - top) / self.height)


def generator_of(seed: int, epoch: int, place: int) -> np.random.Generator:
    """Randomness of one image at one place of an epoch, whatever thread or host reads it."""
    return np.random.default_rng((seed, epoch, place))


def random_resized_crop(
    width: int, height: int, size: int, min_area: float, generator: np.random.Generator
) -> Crop:
    """A random part of a photograph, resized to a square.

    Args:
      width: Of the photograph.
      height: Of the photograph.
      size: Side of the square, in pixels.
      min_area: Smallest part of the photograph's area.
      generator: Decides where.

    Reference: `RandomResizedCrop` of torchvision.
    """
    return Crop(crop_box(width, height, min_area, generator), size, size)


def simple_random_crop(width: int, height: int, size: int, generator: np.random.Generator) -> Crop:
    """A random square of a photograph whose short side is resized to the square's, and its edge.

    Args:
      width: Of the photograph.
      height: Of the photograph.
      size: Side of the square, in pixels.
      generator: Decides where.

    Reference: `new_data_aug_generator` of facebookresearch/deit with `--src`; `Resize` and
      `RandomCrop(padding=4, padding_mode="reflect")` of torchvision.
    """
    short = min(width, height)
    wide, high = (size if side == short else int(size * side / short) for side in (width, height))
    top, left = (
        int(generator.integers(side + 2 * EDGE - size + 1)) - EDGE for side in (high, wide)
    )
    return Crop((0, 0, width, height), wide, high, left, top)


def crop_box(width: int, height: int, min_area: float, generator: np.random.Generator) -> Box:
    """Left, top, right and bottom of a random crop; the centre where no try fits."""
    for _ in range(CROP_TRIES):
        area = width * height * generator.uniform(min_area, 1.0)
        aspect = math.exp(generator.uniform(-math.log(MAX_ASPECT), math.log(MAX_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top, left = (int(generator.integers(room + 1)) for room in (height - h, width - w))
            return left, top, left + w, top + h
    w, h = min(width, round(height * MAX_ASPECT)), min(height, round(width * MAX_ASPECT))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def cut(image: Image.Image, crop: Crop, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of a crop, resized by Pillow's bicubic filter as torchvision does.

    Args:
      image: RGB.
      crop: In pixels of the image.
      size: Side of the square.
    """
    is_whole = crop.box == (0, 0, *image.size)
    part = image if is_whole else image.crop(crop.box)
    shape = (crop.width, crop.height)
    resized = part if part.size == shape else part.resize(shape, Image.Resampling.BICUBIC)
    return square(to_array(resized), crop, size)


def square(pixels: UInt8[np.ndarray, "a b 3"], crop: Crop, size: int) -> UInt8[np.ndarray, "h w 3"]:
    """The square of a resized part, mirrored beyond the edges."""
    rows, cols = (
        _mirrored(np.arange(start, start + size), side)
        for start, side in zip((crop.top, crop.left), pixels.shape[:2], strict=True)
    )
    if pixels.shape[:2] == (size, size) and crop.left == crop.top == 0:
        return pixels
    return pixels[rows][:, cols]


def _mirrored(places: np.ndarray, side: int) -> np.ndarray:
    """Places outside 0 .. side - 1 reflected at the outermost pixels, which are not repeated."""
    return side - 1 - np.abs(side - 1 - np.abs(places))
