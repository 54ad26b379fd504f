"""Which pixels does the model see? One owner for resizing, cropping and normalisation."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.images import Picture, to_array, to_image
from regvit_jax.strict_json import build, convert

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

MAX_SIDE = 16_384
"""Longest side of a result, in pixels."""
_MAX_RESIZED = 2**24  # pixels of the image before it is cropped; of more, only the crop is made

_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """From an image of any size to the model's input; the default is DeiT-III's evaluation.

    Reference: `torchvision.transforms` on PIL images: Resize, CenterCrop, Normalize.
    """

    height: int = 224
    """Height of the result, in pixels."""
    width: int = 224
    """Width of the result, in pixels."""
    resize: Literal["crop", "squash", "pad"] = "crop"
    """"crop": short side to `short_side`, then the centre; "squash": both sides to the result's;
    "pad": as large as it is, with zeros right and below after normalisation."""
    short_side: int = 224
    """Pixels of the short side before cropping."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """Pillow's antialiased filter."""
    crop_start: Literal["rounded", "cut"] = "rounded"
    """Where the crop starts if half a pixel is left: torchvision rounds to even, transformers
    cuts."""
    mean: tuple[float, float, float] = IMAGENET_MEAN
    """Subtracted from each channel, for pixels in [0, 1]."""
    std: tuple[float, float, float] = IMAGENET_STD
    """Divides each channel, after the mean."""

    def __post_init__(self) -> None:
        """Raises unless every field can be used.

        Raises:
          InputError: Names the field, and what was expected.
        """
        for field in dataclasses.fields(self):
            value = convert(getattr(self, field.name), field.type, f"preprocess: {field.name}")
            object.__setattr__(self, field.name, value)
        for name in ("height", "width", "short_side"):
            if not 1 <= (value := getattr(self, name)) <= MAX_SIDE:
                raise InputError(f"{name} must be 1 to {MAX_SIDE} px, got {value}.")
        if not (min(self.std) > 0 and all(map(math.isfinite, (*self.mean, *self.std)))):
            raise InputError(f"std must be above 0 for each channel, got {self.std}.")
        if self.resize == "crop" and self.short_side < max(self.height, self.width):
            raise InputError(
                f"short_side {self.short_side} px is smaller than the crop of "
                f"{self.height} x {self.width} px."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """What `pixels` returns; padded images have a fourth channel, 255 inside the image."""
        return self.height, self.width, 4 if self.resize == "pad" else 3

    def pixels(self, picture: Picture) -> UInt8[np.ndarray, "h w v"]:
        """The resized and cropped, or padded, pixels of a picture.

        Args:
          picture: A path, a Pillow image of any mode, or an array of uint8 or uint16.

        Raises:
          InputError: If it cannot be read, its values mean nothing known, or an image to be padded
            is larger than the result.
        """
        image = to_image(picture)
        if self.resize == "pad":
            return self._padded(to_array(image))
        resample = _FILTERS[self.interpolation]
        if self.resize == "squash":
            size = (self.width, self.height)
            return to_array(image if image.size == size else image.resize(size, resample))
        width, height = _short_side_to(self.short_side, *image.size)
        if width * height > _MAX_RESIZED:
            return self._cropped_first(image, width, height)
        if (width, height) != image.size:
            image = image.resize((width, height), resample)
        left, top = self._start(width, height)
        return to_array(image.crop((left, top, left + self.width, top + self.height)))

    def boxes(
        self, boxes: Float[np.ndarray, "m 4"], width: int, height: int
    ) -> Float[np.ndarray, "m 4"]:
        """Boxes (x0, y0, x1, y1) moved from pixels of the file to pixels of the result, clipped.

        Args:
          boxes: In pixels of the file.
          width: Of the file, in pixels.
          height: Of the file, in pixels.
        """
        if self.resize == "pad":
            return boxes.clip(0, np.array([[width, height] * 2]))
        if self.resize == "squash":
            scale = np.array([self.width / width, self.height / height] * 2)
            offset = np.zeros(4)
        else:
            new_width, new_height = _short_side_to(self.short_side, width, height)
            scale = np.array([new_width / width, new_height / height] * 2)
            left, top = self._start(new_width, new_height)
            offset = np.array([left, top, left, top])
        return (boxes * scale - offset).clip(0, np.array([self.width, self.height] * 2))

    def mask(self, values: UInt8[np.ndarray, "a b"], void: int) -> UInt8[np.ndarray, "h w"]:
        """What becomes of a mask as of its image: each pixel of the result has one pixel's value.

        Args:
          values: Of every pixel of the upright image.
          void: Where a padded image has no pixels.
        """
        image, nearest = Image.fromarray(values), Image.Resampling.NEAREST
        if self.resize == "pad":
            padded = np.full((self.height, self.width), void, np.uint8)
            padded[: values.shape[0], : values.shape[1]] = values
            return padded
        if self.resize == "squash":
            return np.asarray(image.resize((self.width, self.height), nearest))
        width, height = _short_side_to(self.short_side, *image.size)
        left, top = self._start(width, height)
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + self.width) * across, (top + self.height) * down)
        box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
        return np.asarray(image.resize((self.width, self.height), nearest, box))

    def normalise(self, pixels: Shaped[Any, "*b h w v"]) -> Float[Any, "*b h w 3"]:
        """The model's input, float32, as a JAX array; meant to run on the device, inside jit.

        Args:
          pixels: What `pixels` returned, uint8, alone or side by side.

        Raises:
          InputError: If they are of another type or have other channels.
        """
        import jax.numpy as jnp

        self._check(pixels)
        axes = (1,) * (pixels.ndim - 1) + (3,)
        mean, std = (jnp.array(value, jnp.float32).reshape(axes) for value in (self.mean, self.std))
        normalised = (jnp.asarray(pixels[..., :3], jnp.float32) / 255.0 - mean) / std
        if self.resize == "pad":
            return jnp.where(pixels[..., 3:] > 0, normalised, 0.0)
        return normalised

    def _check(self, pixels: Shaped[Any, "..."]) -> None:
        """Raises unless these can be what `pixels` returned; looks at type and shape alone."""
        if pixels.dtype != np.uint8:
            raise InputError(
                f"Pixels to be normalised are uint8 from 0 to 255, got {pixels.dtype}. For values "
                "in [0, 1]: (255 * pixels).round().astype('uint8'); better, let `pixels` or "
                "`regvit_jax.load_images` prepare the picture."
            )
        channels = self.shape[-1]
        if pixels.ndim < 3 or pixels.shape[-1] != channels:
            raise InputError(
                f"Expected pixels of shape (..., height, width, {channels}), got "
                f"{tuple(pixels.shape)}; `pixels` makes them of pictures of any mode."
            )

    def _cropped_first(
        self, image: Image.Image, width: int, height: int
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The crop of a long strip, whose resized whole would fill the memory."""
        across, down = image.width / width, image.height / height
        left, top = self._start(width, height)
        box = (
            left * across,
            top * down,
            min((left + self.width) * across, image.width),
            min((top + self.height) * down, image.height),
        )
        size = (self.width, self.height)
        return to_array(image.resize(size, _FILTERS[self.interpolation], box))

    def _start(self, width: int, height: int) -> tuple[int, int]:
        """Left and top of the centre crop, in pixels of the resized image."""
        left, top = (width - self.width) / 2, (height - self.height) / 2
        return (round(left), round(top)) if self.crop_start == "rounded" else (int(left), int(top))

    def _padded(self, pixels: UInt8[np.ndarray, "a b 3"]) -> UInt8[np.ndarray, "h w 4"]:
        rows, cols = pixels.shape[:2]
        if rows > self.height or cols > self.width:
            raise InputError(
                f"An image of {cols} x {rows} px cannot be padded to {self.width} x {self.height}."
            )
        padded = np.zeros(self.shape, np.uint8)
        padded[:rows, :cols, :3] = pixels
        padded[:rows, :cols, 3] = 255
        return padded

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "Preprocess":
        """What `dataclasses.asdict` wrote, read back from JSON, which has no tuples.

        Raises:
          InputError: Names the field that is missing, unknown or of another type.
        """
        return build(cls, values, "preprocess")

    @classmethod
    def square(cls, size: int) -> "Preprocess":
        """DeiT-III's evaluation at another image size: short side to `size`, then the centre."""
        return cls(height=size, width=size, short_side=size)

    def padding(self, height: int, width: int, multiple: int) -> "Preprocess":
        """Full resolution for images of up to this size, padded to a multiple of the patch size.

        The normalisation is this one's.
        """
        rows, cols = (-(-side // multiple) * multiple for side in (height, width))
        return dataclasses.replace(self, height=rows, width=cols, resize="pad")


STUDY_PREPROCESS: dict[str, Preprocess] = {
    "attention": Preprocess(short_side=249, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    "similarity": Preprocess(resize="squash", interpolation="bilinear"),
    "reconstruction": Preprocess(short_side=256, interpolation="bilinear"),
    "lost": Preprocess(interpolation="bilinear"),
}
"""What each notebook of the study did; norms were taken with "similarity"."""


def _short_side_to(size: int, width: int, height: int) -> tuple[int, int]:
    """Width and height with the short side `size`; the long side is cut to whole pixels."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size
