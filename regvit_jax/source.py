"""What is a source of images? A fixed order of samples, read at random."""

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from regvit_jax.errors import InputError

NO_BOXES = np.zeros((0, 4))
VOID = 255
"""In a mask: nobody says what this pixel shows."""


class Sample(NamedTuple):
    """One image of a source, as it is stored."""

    image: Image.Image
    """RGB, upright."""
    label: int
    """Index into the source's class names; -1 where there is none."""
    boxes: Float[np.ndarray, "m 4"]
    """Objects (x0, y0, x1, y1), half-open, in pixels of the file; none where unknown."""
    is_truncated: Bool[np.ndarray, " m"] | None = None
    """Which objects reach beyond the picture or are hidden in part; None where unknown."""
    is_difficult: Bool[np.ndarray, " m"] | None = None
    """Which objects are hard to recognise, says who drew the boxes; None where unknown."""
    token_targets: Int[np.ndarray, "r c"] | Float[np.ndarray, "r c k"] | None = None
    """What a token loss teaches each patch of a grid of r x c that covers the image: one class (-1:
    nothing), or shares of all k classes (all 0: nothing); None where the source has none."""


@runtime_checkable
class Source(Protocol):
    """Images in a fixed order, read at random."""

    @property
    def name(self) -> str:
        """What results call the source."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Empty where images have no labels."""
        ...

    @property
    def file_names(self) -> Sequence[str]:
        """What each image is called, relative to the source; looking one up may read a file."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


class Encoded(NamedTuple):
    """One image of a source as the bytes of its file."""

    data: bytes
    label: int
    """Index into the source's class names; -1 where there is none."""
    name: str
    """What error messages call the image."""


@runtime_checkable
class EncodedSource(Source, Protocol):
    """A source whose images lie in files, to be decoded in another way than `read_image`'s."""

    def encoded(self, index: int) -> Encoded: ...


@runtime_checkable
class RedrawnSource(Source, Protocol):
    """A source that draws its images anew in every epoch of training."""

    def at_epoch(self, epoch: int) -> Source: ...


@runtime_checkable
class TokenSource(Source, Protocol):
    """A source whose samples have targets for their patches."""

    @property
    def token_classes(self) -> int:
        """Classes that a patch can have."""
        ...


@runtime_checkable
class MaskedSource(Source, Protocol):
    """A source that knows what the pixels of some of its images show."""

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """What the values of masks mean; 0 is the background."""
        ...

    @property
    def masked(self) -> Int[np.ndarray, " n"]:
        """The images that have a mask."""
        ...

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The class of every pixel of an image as it is stored, upright; `VOID` where unknown."""
        ...


def read_encoded(path: Path, label: int) -> Encoded:
    """A file's bytes.

    Raises:
      InputError: If it is there no longer.
    """
    if not path.is_file():
        raise InputError(f"There is no image at {path}.")
    return Encoded(path.read_bytes(), label, str(path))


def composed(name: str) -> str:
    """A class's name in one form, however a disk or a data set writes its accents (Unicode NFC)."""
    return unicodedata.normalize("NFC", name)


def check_same_classes(first: Source, second: Source) -> None:
    """Raises unless the labels of two sources mean the same.

    Raises:
      InputError: If they do not.
    """
    if first.class_names != second.class_names:
        one, other = set(first.class_names), set(second.class_names)
        raise InputError(
            f"The classes of {first.name} and {second.name} differ: only the first has "
            f"{sorted(one - other)}, only the second {sorted(other - one)}. Every class needs "
            "images in both."
        )
