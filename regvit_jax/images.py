"""How does a file become three channels of 8 bits? Whatever camera or program wrote it."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from regvit_jax.errors import InputError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"})

# Pillow's modes of 16 bits and more; `convert` would clip them instead of scaling.
_DEEP_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I"})

# EXIF orientations that swap width and height.
_LYING = frozenset({5, 6, 7, 8})


def read_image(file: Path | bytes, name: str | None = None, shrink: int = 1) -> Image.Image:
    """An image in RGB, turned upright by its EXIF orientation.

    Grey, palette, CMYK and 16-bit files are converted; transparency is dropped.

    Args:
      file: A path, or the bytes of an encoded image.
      name: What error messages call the image; the path unless given.
      shrink: 2, 4 or 8 decodes JPEG files at so small a part of their width and height (rounded
        up), which is faster; other files stay as large as they are.

    Raises:
      InputError: If the file is missing, no image, or cut short.
    """
    with _opened(file, name) as image:
        if shrink > 1:
            image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))


def read_size(file: Path | bytes, name: str | None = None) -> tuple[int, int]:
    """Width and height of an image turned upright, from the head of its file.

    Args:
      file: As for `read_image`.
      name: As for `read_image`.

    Raises:
      InputError: If the file is missing, or no image.
    """
    with _opened(file, name) as image:
        width, height = image.size
        is_lying = image.getexif().get(ExifTags.Base.Orientation) in _LYING
        return (height, width) if is_lying else (width, height)


@contextlib.contextmanager
def _opened(file: Path | bytes, name: str | None) -> Iterator[Image.Image]:
    """An open image; whatever goes wrong with it is the file's fault."""
    name = name or (str(file) if isinstance(file, Path) else "the image")
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            yield image
    except FileNotFoundError:
        raise InputError(f"There is no image at {name}.") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image that Pillow can read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{name} is damaged or cut short ({error}).") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP_MODES:
        depth = np.asarray(image).astype(np.uint32)
        image = Image.fromarray((depth >> 8).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def to_array(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an RGB image."""
    return np.asarray(image, dtype=np.uint8)
