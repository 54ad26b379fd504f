"""What can a model learn without a download? Real handwritten digits lying on real textures.

Every scene is one digit of scikit-learn's UCI set (8 x 8 pixels, scaled up smoothly, turned a
little and coloured) with its shadow, on a crop of one of scikit-image's bundled photographs. Where
the digit lies is known exactly. The splits share neither digits nor any pixel of a photograph:
every fifth digit, and the last quarter of every photograph along its longer side, belong to
validation.
"""

import colorsys
import dataclasses
import functools
import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.images import read_image
from regvit_jax.source import Sample

SPLITS = {"train": 20_000, "val": 2_000}
"""Scenes in each split unless asked for otherwise."""
IMAGE_SIZE = 64

PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
_VAL_DIGITS = 5  # every fifth
_VAL_PHOTOGRAPH = 1 / 4
_OVERSAMPLING = (
    5  # the short side of a photograph in image sizes, so that a quarter of it holds one
)

# All ranges are uniform. Lengths are in image sides, colours in [0, 255].
_DIGIT_HEIGHT = (0.55, 0.6)
_TURN_DEGREES = (-5.0, 5.0)
_SLANT = (-0.03, 0.03)
_TEXTURE_LEVEL = (40.0, 90.0)
_TEXTURE_CONTRAST = (0.25, 0.5)
_SATURATION = (0.0, 0.4)
_PLACES = 8  # a digit's corner lies on multiples of an 8th of the image side
_SHADOW = 0.5
_SHADOW_OFFSET = 1 / 32
_MARGIN_CELLS = 2  # empty cells around a digit, for the turn
_VISIBLE = 0.5  # ink from which a pixel belongs to the digit


class Scene(NamedTuple):
    """One digit on one texture."""

    pixels: UInt8[np.ndarray, "h w 3"]
    label: int
    box: Int[np.ndarray, " 4"]
    """Around the digit: (x0, y0, x1, y1), half-open, in pixels."""
    mask: UInt8[np.ndarray, "h w"]
    """1 where the digit's ink is, 0 elsewhere."""


@dataclasses.dataclass(frozen=True)
class DigitsSource:
    """Scenes of one split: the index decides on the digit, (seed, epoch, index) on the rest."""

    split: str
    size: int
    seed: int
    num_images: int
    class_names: tuple[str, ...] = tuple("0123456789")
    epoch: int = 0

    @classmethod
    def open(
        cls, split: str, size: int = IMAGE_SIZE, seed: int = 0, num_images: int | None = None
    ) -> "DigitsSource":
        """The embedded data set.

        Args:
          split: "train" or "val".
          size: Side of the square images, in pixels.
          seed: Another seed gives other scenes of the same digits and photographs.
          num_images: Scenes in the split; 20,000 for training and 2,000 for validation by default.

        Raises:
          InputError: If there is no such split, or scikit-learn or scikit-image is missing.
        """
        if split not in SPLITS:
            raise InputError(f"The digits have the splits {sorted(SPLITS)}, not {split!r}.")
        if size < 16:
            raise InputError(f"A digit needs an image of at least 16 px, got {size}.")
        check_libraries("digits")
        return cls(split, size, seed, SPLITS[split] if num_images is None else num_images)

    @property
    def name(self) -> str:
        return f"digits-{self.split}"

    @functools.cached_property
    def file_names(self) -> tuple[str, ...]:
        return tuple(f"{self.split}-{index:05d}" for index in range(len(self)))

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Sample:
        scene = self.draw(index)
        return Sample(Image.fromarray(scene.pixels), scene.label, scene.box[None].astype(float))

    @property
    def mask_classes(self) -> tuple[str, ...]:
        return ("background", "digit")

    @property
    def masked(self) -> Int[np.ndarray, " n"]:
        return np.arange(len(self))

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        return self.draw(index).mask

    def at_epoch(self, epoch: int) -> "DigitsSource":
        """The same digits elsewhere, on other textures."""
        return dataclasses.replace(self, epoch=epoch)

    def draw(self, index: int) -> Scene:
        """One scene, as the source's epoch has it.

        Raises:
          IndexError: If there is no such scene.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.name} has {len(self)} scenes, there is no {index}.")
        canvases, labels = _canvases(self.split), digits_of(self.split)[1]
        textures = textures_of(self.split, self.size)
        generator = np.random.default_rng(
            (self.seed, list(SPLITS).index(self.split), self.epoch, index)
        )
        ink = _draw_ink(canvases[index % len(canvases)], self.size, generator)
        image = draw_texture(textures[generator.integers(len(textures))], self.size, generator)
        box = _place(image, ink, generator)
        mask = np.zeros(image.shape[:2], np.uint8)
        mask[box[1] : box[3], box[0] : box[2]] = ink >= _VISIBLE
        label = int(labels[index % len(labels)])
        return Scene(image.round().astype(np.uint8), label, box, mask)


def check_libraries(data: str) -> None:
    """Raises unless the libraries that an embedded data set is made from are installed.

    Args:
      data: Its name.

    Raises:
      InputError: If one is missing.
    """
    for module in ("sklearn", "skimage"):
        if importlib.util.find_spec(module) is None:
            raise InputError(
                f"The embedded {data} need {module}. Install it: pip install regvit-jax[data]."
            )


@functools.cache
def digits_of(split: str) -> tuple[UInt8[np.ndarray, "n 8 8"], Int[np.ndarray, " n"]]:
    """The handwritten digits of a split, ink from 0 to 255, and what they say."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    is_val = np.arange(len(bunch.target)) % _VAL_DIGITS == _VAL_DIGITS - 1
    part = ~is_val if split == "train" else is_val
    ink = (bunch.images[part] * (255 / 16)).round().astype(np.uint8)
    return ink, bunch.target[part].astype(np.int64)


@functools.cache
def textures_of(split: str, size: int) -> tuple[Float[np.ndarray, "h w 3"], ...]:
    """The regions of the photographs that a split may use, scaled for images of a size."""
    return tuple(_region(read_image(path), split, size) for path in _photograph_paths())


class Texture(NamedTuple):
    """A piece of a photograph that is to be made dark and flat enough for a light digit."""

    crop: Float[np.ndarray, "s s 3"]
    level: float
    contrast: float

    def flattened(self, pixels: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 3"]:
        """Some pixels of the crop, or all of it, around the level and at the contrast."""
        flat = self.level + self.contrast * (pixels - self.crop.mean())
        return flat.clip(0, 255).astype(np.float32)


def choose_texture(
    region: Float[np.ndarray, "h w 3"], size: int, generator: np.random.Generator
) -> Texture:
    """A random crop of a region, mirrored or turned."""
    top = generator.integers(region.shape[0] - size + 1)
    left = generator.integers(region.shape[1] - size + 1)
    crop = region[top : top + size, left : left + size]
    if generator.random() < 0.5:
        crop = crop[:, ::-1]
    crop = np.rot90(crop, int(generator.integers(4)))
    level, contrast = generator.uniform(*_TEXTURE_LEVEL), generator.uniform(*_TEXTURE_CONTRAST)
    return Texture(crop, level, contrast)


def draw_texture(
    region: Float[np.ndarray, "h w 3"], size: int, generator: np.random.Generator
) -> Float[np.ndarray, "s s 3"]:
    """A random crop, mirrored or turned, made dark and flat enough for a light digit."""
    texture = choose_texture(region, size, generator)
    return texture.flattened(texture.crop)


def _photograph_paths() -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    assert spec is not None  # `open` has looked for it
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "data"
    return [folder / name for name in PHOTOGRAPHS]


def _region(photograph: Image.Image, split: str, size: int) -> Float[np.ndarray, "h w 3"]:
    """A split's part of one photograph, its longer side turned to run along the rows."""
    scale = _OVERSAMPLING * size / min(photograph.size)
    shape = tuple(max(round(side * scale), _OVERSAMPLING * size) for side in photograph.size)
    # The cut comes first: resizing mixes neighbouring pixels.
    pixels = np.asarray(photograph)
    if pixels.shape[0] > pixels.shape[1]:
        pixels, shape = pixels.swapaxes(0, 1), shape[::-1]
    cut = round(pixels.shape[1] * (1 - _VAL_PHOTOGRAPH))
    part = pixels[:, :cut] if split == "train" else pixels[:, cut:]
    width = round(shape[0] * part.shape[1] / pixels.shape[1])
    resized = Image.fromarray(part).resize((width, shape[1]), Image.Resampling.BICUBIC)
    return np.asarray(resized, np.float32)


@functools.cache
def _canvases(split: str) -> tuple[Image.Image, ...]:
    """The digits of a split with empty cells around them."""
    return tuple(Image.fromarray(np.pad(ink, _MARGIN_CELLS)) for ink in digits_of(split)[0])


def _draw_ink(
    canvas: Image.Image, size: int, generator: np.random.Generator
) -> Float[np.ndarray, "h w"]:
    """A digit's opacity, scaled, slanted and turned, cut to what is visible of it."""
    cells = canvas.width
    side = size * generator.uniform(*_DIGIT_HEIGHT) * cells / (cells - 2 * _MARGIN_CELLS)
    pixels = math.ceil(side)
    angle, slant = np.radians(generator.uniform(*_TURN_DEGREES)), generator.uniform(*_SLANT)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = rotation @ np.array([[1.0, slant], [0.0, 1.0]]) * (cells / side)
    offset = cells / 2 - matrix.sum(1) * pixels / 2
    transform = (*matrix[0], offset[0], *matrix[1], offset[1])
    drawn = canvas.transform(
        (pixels, pixels), Image.Transform.AFFINE, transform, Image.Resampling.BICUBIC
    )
    # A steeper edge than the interpolation's makes a pen stroke of a blurred one.
    ink = ((np.asarray(drawn, np.float32) / 255 - 0.5) * 2.5 + 0.5).clip(0, 1)
    rows, cols = (np.flatnonzero((ink >= _VISIBLE).any(axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]


def _place(
    image: Float[np.ndarray, "s s 3"], ink: Float[np.ndarray, "h w"], generator: np.random.Generator
) -> Int[np.ndarray, " 4"]:
    """Draws a digit and its shadow into the image, wholly inside it; returns the digit's box."""
    size, (height, width) = image.shape[0], ink.shape
    grid = max(1, size // _PLACES)
    top, left = (
        int(generator.integers((size - side) // grid + 1)) * grid for side in (height, width)
    )
    shift = max(1, round(size * _SHADOW_OFFSET))
    under = image[top + shift : top + shift + height, left + shift : left + shift + width]
    under *= 1 - _SHADOW * ink[: under.shape[0], : under.shape[1], None]
    colour = colorsys.hsv_to_rgb(generator.random(), generator.uniform(*_SATURATION), 1.0)
    here = image[top : top + height, left : left + width]
    here += ink[..., None] * (255 * np.array(colour, np.float32) - here)
    return np.array([left, top, left + width, top + height])
