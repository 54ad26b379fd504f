"""How does an encoded image become the pixels of a crop, and fast?

A JPEG file can be decoded at a half, a quarter or an eighth of its size for a part of the work.
That is done where the crop would be reduced at least so much anyway.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.images import Head, read_head, read_image
from regvit_jax.source import Encoded
from regvit_jax.train.crops import Crop, cut, square
from regvit_jax.train.jpeg import is_sound

Pixels = UInt8[np.ndarray, "h w 3"]

SHRINKS = (8, 4, 2)


def decode_crop(
    encoded: Encoded, choose: Callable[[int, int], Crop], size: int, decoder: str
) -> Pixels:
    """The pixels of a crop of one file.

    Args:
      encoded: The file.
      choose: Chooses the crop by width and height.
      size: Side of the result.
      decoder: "pillow", or "opencv" for JPEG files and Pillow for others.

    Raises:
      InputError: If the file is no image, or cut short.
    """
    head = read_head(encoded.data, encoded.name)
    width, height = head.upright
    crop = choose(width, height)
    shrink = next((shrink for shrink in SHRINKS if crop.scale >= shrink), 1)
    if decoder == "opencv":
        pixels = _opencv_crop(encoded.data, head, crop, shrink)
        if pixels is not None:
            return square(pixels, crop, size)
    return _pillow_crop(encoded, (width, height), crop, shrink, size)


def check_decoder(decoder: str) -> None:
    """Raises unless the decoder is installed.

    Raises:
      InputError: If it is not.
    """
    if decoder == "opencv":
        _opencv()


def _pillow_crop(
    encoded: Encoded, full: tuple[int, int], crop: Crop, shrink: int, size: int
) -> Pixels:
    image = read_image(encoded.data, encoded.name, shrink)
    if image.size == full:
        return cut(image, crop, size)
    across, down = (now / before for now, before in zip(image.size, full, strict=True))
    left, top, right, bottom = crop.box
    box = (left * across, top * down, right * across, bottom * down)
    shape = (crop.width, crop.height)
    return square(np.asarray(image.resize(shape, Image.Resampling.BICUBIC, box)), crop, size)


def _opencv_crop(
    data: bytes, head: Head, crop: Crop, shrink: int
) -> UInt8[np.ndarray, "a b 3"] | None:
    """The resized part; None if Pillow should try, which knows more formats and all damages."""
    if not is_sound(data):
        return None
    cv2 = _opencv()
    flags = cv2.IMREAD_COLOR if shrink == 1 else getattr(cv2, f"IMREAD_REDUCED_COLOR_{shrink}")
    # OpenCV reads fewer ways to say the orientation than Pillow: it is applied here.
    flags |= cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    stored = (head.width, head.height)
    if image is None or image.shape[1::-1] != tuple(-(-side // shrink) for side in stored):
        return None
    image = _UPRIGHT[head.orientation](image)
    left, top, right, bottom = (round(edge / shrink) for edge in crop.box)
    part = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    if head.orientation > 1:
        part = np.ascontiguousarray(part)  # OpenCV takes no negative strides
    is_reduced = min(part.shape[1] / crop.width, part.shape[0] / crop.height) > 1
    rule = cv2.INTER_AREA if is_reduced else cv2.INTER_CUBIC
    resized = cv2.resize(part, (crop.width, crop.height), interpolation=rule)
    return cv2.cvtColor(resized, cv2.COLOR_BGR2RGB)


_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image),
}
"""What turns pixels upright, by EXIF's orientation."""


@functools.cache
def _opencv() -> Any:
    """OpenCV, told to leave the cores to the threads that call it."""
    try:
        import cv2
    except ImportError:
        raise InputError(
            "The decoder opencv is not installed. Install it: pip install 'regvit-jax[fast]', or "
            "use --decoder pillow."
        ) from None
    cv2.setNumThreads(1)
    return cv2
