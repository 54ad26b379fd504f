"""How does a picture become three channels of 8 bits? Whatever camera or program wrote it."""

import contextlib
import io
import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Num, Shaped, UInt8
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from regvit_jax.errors import InputError

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .bmp .gif .webp .tif .tiff .ppm .pgm .avif".split()
)
MAX_PIXELS = 120_000_000
"""Largest picture that is read; each pixel takes 8 bytes while it is."""
MAX_SIDE = 65_535
"""Longest side that is read, in pixels; every row has a cost of its own."""

Picture = Image.Image | np.ndarray | str | bytes | Path
"""An image in memory, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or the path of a file."""

_HEAD = 64  # bytes that tell what a file is

# EXIF orientations that swap width and height, and what turns each of them upright.
_LYING = frozenset({5, 6, 7, 8})
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow's plugins raise over damaged files, beside OSError.
_DAMAGE = (
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    struct.error,
)


def read_image(file: Path | bytes, name: str | None = None, shrink: int = 1) -> Image.Image:
    """An image in RGB, turned upright by its EXIF orientation; the first of several frames.

    Grey, palette, CMYK and deeper files are converted; transparency is dropped. Files of more than
    8 bits whose values do not fill their range are scaled by the range that they seem to have,
    which is said once in a warning.

    Args:
      file: A path, or the bytes of an encoded image.
      name: What error messages call the image; the path unless given.
      shrink: 2, 4 or 8 decodes JPEG files at so small a part of their width and height (rounded
        up), which is faster; other files stay as large as they are.

    Raises:
      InputError: If the file is missing, no image, cut short, or too large.
    """
    name = name or _name_of(file)
    with _opened(file, name) as image:
        if shrink > 1:
            image.draft(None, (max(1, image.width // shrink), max(1, image.height // shrink)))
        _load(image, name)
        return _upright(image, name)


def read_indices(file: Path) -> UInt8[np.ndarray, "h w"]:
    """The numbers of an image with a palette, or of a grey one of 8 bits, as they are stored.

    Args:
      file: Its path.

    Raises:
      InputError: If it is missing, cut short, too large or of another kind.
    """
    name = _name_of(file)
    with _opened(file, name) as image:
        _load(image, name)
        if image.mode not in ("P", "L"):
            raise InputError(
                f"{name} is an image of mode {image.mode}; expected numbers: a palette, or grey of "
                "8 bits."
            )
        return np.asarray(image, np.uint8)


def read_size(file: Path | bytes, name: str | None = None) -> tuple[int, int]:
    """Width and height of an image turned upright, from the head of its file.

    Args:
      file: As for `read_image`.
      name: As for `read_image`.

    Raises:
      InputError: If the file is missing, no image, or too large.
    """
    return read_head(file, name).upright


class Head(NamedTuple):
    """What the head of an image's file says."""

    width: int
    """As it is stored, in pixels."""
    height: int
    """As it is stored, in pixels."""
    orientation: int
    """The orientation that EXIF gives, from 1 (upright) to 8."""

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height of the upright image, in pixels."""
        return (
            (self.height, self.width) if self.orientation in _LYING else (self.width, self.height)
        )


def read_head(file: Path | bytes, name: str | None = None) -> Head:
    """Size and orientation of an image as it is stored.

    Raises:
      InputError: As `read_size`.
    """
    with _opened(file, name or _name_of(file)) as image:
        orientation = orientation_of(image)
        # Pillow turns TIFF files itself, and says the size that they have then.
        is_turned = image.format == "TIFF" and orientation in _LYING
        width, height = image.size[::-1] if is_turned else image.size
        return Head(width, height, orientation)


def orientation_of(image: Image.Image) -> int:
    """An image's EXIF orientation from 1 to 8; 1, upright, where it is absent or broken."""
    try:
        found = image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, *_DAMAGE):  # the pixels are whole all the same
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def to_image(picture: Picture) -> Image.Image:
    """A picture of any kind in RGB; one that comes straight from a file is turned upright.

    Raises:
      InputError: If it cannot be read, or nothing says what its values mean.
    """
    if isinstance(picture, bytes):
        picture = os.fsdecode(picture)
    if isinstance(picture, str | Path):
        return read_image(Path(picture).expanduser())
    if isinstance(picture, ImageFile.ImageFile):
        name = str(getattr(picture, "filename", "") or "the image")
        with _damage_named(name):
            _load(picture, name)
            return _upright(picture, name)
    if isinstance(picture, Image.Image):
        return picture if picture.mode == "RGB" else _to_rgb(picture, "the image")
    if isinstance(picture, np.ndarray):
        return _of_array(picture)
    raise InputError(
        f"Expected a path, a Pillow image or a NumPy array, got {type(picture).__name__}."
    )


def to_array(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """The pixels of an RGB image."""
    return np.asarray(image, dtype=np.uint8)


def _name_of(file: Path | bytes) -> str:
    return "the image" if isinstance(file, bytes) else os.fsencode(file).decode(errors="replace")


@contextlib.contextmanager
def _opened(file: Path | bytes, name: str) -> Iterator[Image.Image]:
    """An open image of a size that can be read."""
    with _damage_named(name):
        if not isinstance(file, bytes) and not stat.S_ISREG(os.stat(file).st_mode):
            raise InputError(f"{name} is no file.")  # opening a pipe would wait for ever
        try:
            opened = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file)
        except UnidentifiedImageError:
            raise InputError(f"{name} is not an image that Pillow can read{_kind(file)}.") from None
        with opened as image:
            _check_size(image, name)
            yield image


def _kind(file: Path | bytes) -> str:
    """What a file is that Pillow does not know, and what helps; empty if nothing is known."""
    if not isinstance(file, bytes):
        with open(file, "rb") as opened:
            file = opened.read(_HEAD)
    head = file[:_HEAD]
    if not head.strip(b"\0"):
        return ": it is empty. Its download or copy has failed"
    if head.startswith(b"version https://git-lfs"):
        return ": it is a Git LFS pointer. Run `git lfs pull`"
    if head[4:8] == b"ftyp":
        return ": it is HEIC or a film. Save it as JPEG"
    if head.lstrip()[:1] == b"<":
        return ": it is a web page or SVG. Download the image itself, or save it as PNG"
    return ""


@contextlib.contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """Whatever goes wrong inside is said with the name of the image."""
    previous, _reading.name = getattr(_reading, "name", None), name
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"There is no image at {name}.") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} is not an image that Pillow can read.") from None
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} has too many pixels. {_LIMITS}") from error
    except MemoryError as error:
        raise InputError(f"{name} needs more memory than there is.") from error
    except OSError as error:
        if error.errno is not None:  # the system's, not Pillow's
            raise InputError(f"{name} cannot be opened: {error.strerror}.") from error
        raise InputError(f"{name} is damaged or cut short ({error}).") from error
    except _DAMAGE as error:
        raise InputError(f"{name} is damaged or cut short ({error}).") from error
    finally:
        _reading.name = previous


_LIMITS = (
    f"At most {MAX_PIXELS // 10**6} megapixels and sides of {MAX_SIDE} pixels are read. Make it "
    "smaller, or cut it into parts."
)


def _check_size(image: Image.Image, name: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(f"{name} has {width} x {height} pixels. {_LIMITS}")


def _load(image: Image.Image, name: str) -> None:
    """Decodes a file.

    Raises:
      InputError: If it has colours of 16 bits, of which Pillow keeps the upper 8, and these are
        nearly black: values of 12 bits or fewer were stored, it seems.
    """
    tiles = getattr(image, "tile", ())
    is_cut = image.mode in _COLOURS and any(";16" in str(part) for tile in tiles for part in tile)
    image.load()
    bands = _COLOURS[image.mode] if is_cut else ()
    if bands and 0 < max(np.asarray(image.getchannel(band)).max() for band in bands) < 16:
        raise InputError(
            f"{name} has colours of 16 bits that are all below 4096, as of a camera of 12 bits, "
            "whose range nothing tells. Save it with 8 bits per channel."
        )


_COLOURS = {"RGB": "RGB", "RGBA": "RGB", "LA": "L", "CMYK": "CMYK"}
"""Channels by mode, without what says how transparent a pixel is."""


def _upright(image: Image.Image, name: str) -> Image.Image:
    """A loaded image in RGB, upright; never the open file itself."""
    orientation = orientation_of(image)
    rgb = _to_rgb(image, name)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """An image of any mode in RGB, as a copy."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        bits = getattr(image, "tag_v2", {}).get(258, (0,))[0]  # TIFF's BitsPerSample
        return Image.fromarray(_eight_bits(np.asarray(image), name, bits)).convert("RGB")
    if mode == "LAB":
        from PIL import ImageCms

        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, rgb, outputMode="RGB")
        assert converted is not None  # only in place is there no result
        return converted
    if mode in ("La", "RGBa"):
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    if mode in ("P", "PA"):  # without the detour Pillow complains of transparency
        image = image.convert("RGBA")
    return image.convert("RGB")


def _of_array(array: Shaped[np.ndarray, "..."]) -> Image.Image:
    """An image of an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4)."""
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"An array of {array.dtype} does not say what its values mean. Expected uint8 from 0 "
            "to 255 (for values in [0, 1]: (255 * array).round().astype(numpy.uint8)) or uint16."
        )
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        raise InputError(
            f"An array of shape {array.shape} looks channels first; expected (height, width, 3): "
            "use array.transpose(1, 2, 0)."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"Expected one image of shape (height, width, 3), or with 1 or 4 channels, or "
            f"(height, width); got an array of shape {array.shape}."
        )
    if 0 in array.shape:
        raise InputError(f"An image of shape {array.shape} has no pixels.")
    if array.dtype == np.uint16:
        array = _eight_bits(array, "an array")
    grey = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    return Image.fromarray(np.ascontiguousarray(grey)).convert("RGB")


def _eight_bits(
    values: Num[np.ndarray, "..."], name: str, bits: int = 0
) -> UInt8[np.ndarray, "..."]:
    """Values of more than 8 bits scaled to 0 .. 255.

    Args:
      values: Integers or floats, not below 0.
      name: What messages call the image.
      bits: How many each value has, says the file; 0 if it does not.

    Raises:
      InputError: If nothing tells their range.
    """
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 65_535:
        raise InputError(
            f"{name} has values from {low:g} to {high:g}, whose range is unknown. Save it with 8 "
            "or 16 bits per channel."
        )
    if values.dtype.kind == "f":
        top = 1.0 if high <= 1 else 255.0 if high <= 255 else 65_535.0
        _assume(f"{values.dtype} values", name, f"0 to {top:g}")
        return (values * (255 / top)).round().astype(np.uint8)
    if bits == 32 or values.dtype.itemsize > 2:
        depth = 8 if high < 256 else 16
        if depth == 8:
            _assume("32-bit values", name, "0 to 255")
    elif 8 < bits < 16:
        depth = bits
    else:
        depth = 12 if 0 < high < 4096 else 16
        if depth == 12:
            _assume("16-bit values below 4096", name, "0 to 4095, as of a 12-bit camera")
    return (values.astype(np.uint32) >> (depth - 8)).astype(np.uint8)


class AssumedRange(UserWarning):
    """No file says what range an image's values have."""


_said: set[tuple[str, str]] = set()


def _assume(kind: str, name: str, text: str) -> None:
    """Says a range that was assumed, once for each kind of file and each range."""
    if (kind, text) not in _said:
        _said.add((kind, text))
        warnings.warn(f"{name}: {kind}, assumed to range from {text}", AssumedRange, stacklevel=2)


_reading = threading.local()
"""`name` is that of the image that this thread reads."""
_show = warnings.showwarning


def _show_with_name(message, category, filename, lineno, file=None, line=None) -> None:
    """Shows a warning; one about an image that is being read says which."""
    name = getattr(_reading, "name", None)
    if name is None:
        _show(message, category, filename, lineno, file, line)
    elif category is AssumedRange:
        _say(f"Note: {message}\n", file)
    elif category is not Image.DecompressionBombWarning:  # our own limit is another
        _say(f"Note: {name}: {str(message).strip()}\n", file)


def _say(text: str, file) -> None:
    import sys

    (file or sys.stderr).write(text)


warnings.showwarning = _show_with_name
