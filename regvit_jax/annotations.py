"""What does an annotation of Pascal VOC say? The objects of one photograph, in its upright frame.

VOC counts pixels from 1 and includes the last one; a box (xmin, ymin, xmax, ymax) is here
(xmin - 1, ymin - 1, xmax, ymax), half-open.

Reference: `extract_gt_VOC` of valeoai/LOST subtracts the same.
"""

import re
import xml.parsers.expat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.boxes import turned_upright
from regvit_jax.errors import InputError
from regvit_jax.images import Head
from regvit_jax.source import NO_BOXES

_MAX_BYTES, _MAX_DEPTH = 16 * 2**20, 100  # of an annotation
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_TRUE, _FALSE = ("true", "yes"), ("", "false", "no", "unspecified")
_SPILL = 2  # pixels that a box may reach beyond its image
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """The objects of one image."""

    names: tuple[str, ...]
    """The class of each object."""
    boxes: Float[np.ndarray, "m 4"]
    is_truncated: Bool[np.ndarray, " m"]
    is_difficult: Bool[np.ndarray, " m"]
    size: tuple[int, int] | None = None
    """Width and height of the image that the boxes were drawn on; None where it is not said."""


NOTHING = Annotation((), NO_BOXES, np.zeros(0, bool), np.zeros(0, bool))


def in_frame(found: Annotation, head: Head, path: Path) -> Annotation:
    """Objects in the frame of the upright image, whose boxes end where it does.

    Args:
      found: As the annotation says.
      head: Of the image's file.
      path: Of the image.

    Raises:
      InputError: If the annotation does not tell in which frame they are, or a box reaches far
        beyond the image: it was drawn on another one.
    """
    return _inside(_turned(found, head, path), head, path)


def _turned(found: Annotation, head: Head, path: Path) -> Annotation:
    """Objects in the frame of the upright image.

    Raises:
      InputError: If the annotation does not tell in which frame they are.
    """
    stored, size = (head.width, head.height), found.size
    upright = stored[::-1] if head.orientation >= 5 else stored
    if not len(found.boxes) or (size == upright == stored and head.orientation == 1):
        return found
    if size is None and head.orientation == 1:
        return found
    if size is not None and size not in (stored, upright):
        raise InputError(
            f"{path} has {upright[0]} x {upright[1]} px, but its annotation was drawn on "
            f"{size[0]} x {size[1]} px. Use the image that belongs to it."
        )
    if size is None or stored == upright:
        raise InputError(
            f"{path} is stored turned (EXIF orientation {head.orientation}), and its annotation "
            "does not tell on which frame its boxes were drawn. Save the image upright."
        )
    if size == upright:
        return found
    return found._replace(boxes=turned_upright(found.boxes, head.orientation, *stored))


def _inside(found: Annotation, head: Head, path: Path) -> Annotation:
    """Objects whose boxes end where the image does; tools differ by a pixel or two.

    Raises:
      InputError: If a box reaches further.
    """
    width, height = (head.width, head.height)[:: -1 if head.orientation >= 5 else 1]
    boxes = found.boxes.clip(0, np.array([width, height, width, height]))
    if np.abs(boxes - found.boxes).max(initial=0) > _SPILL:
        raise InputError(
            f"{path} has {width} x {height} px, but its annotation has a box that reaches beyond. "
            "It belongs to another image, or is damaged."
        )
    return found._replace(boxes=boxes)


def read_annotation(path: Path) -> Annotation:
    """The objects that an XML file of VOC describes.

    A document type or an entity is refused: neither belongs there, and expanding entities can fill
    the memory.

    Raises:
      InputError: If the file is missing, no XML, or no annotation.
    """
    if not path.is_file():
        raise InputError(f"There is no annotation at {path}.")
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} is larger than {_MAX_BYTES >> 20} MB, which no annotation is.")
    text = path.read_bytes()
    reader = _AnnotationReader(path)
    reader.parse(text)
    return reader.annotation()


class _AnnotationReader:
    """Collects the texts of the elements of each object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open: list[str] = []
        """Names of the elements that are open."""
        self._objects: list[dict[str, str]] = []
        self._size: dict[str, str] = {}
        self._root = ""

    def parse(self, text: bytes) -> None:
        parser = xml.parsers.expat.ParserCreate("utf-8" if _ENCODING.search(text) else None)
        parser.StartDoctypeDeclHandler = self._refuse("a document type")
        parser.EntityDeclHandler = self._refuse("an entity")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(self._utf8(text), True)
        except xml.parsers.expat.ExpatError as error:
            raise InputError(f"{self.path} is broken XML ({error}).") from error
        if self._root != "annotation":
            raise InputError(
                f"{self.path} is no VOC annotation: its root is <{self._root}>, not <annotation>."
            )

    def annotation(self) -> Annotation:
        boxes = np.array([self._box(o) for o in self._objects], np.float64).reshape(-1, 4)
        truncated, difficult = (self._flags(name) for name in ("truncated", "difficult"))
        names = tuple(o.get("annotation/object/name", "").strip() for o in self._objects)
        return Annotation(names, boxes, truncated, difficult, self._drawn_on())

    def _utf8(self, text: bytes) -> bytes:
        """A text in UTF-8 whose head names another encoding; expat knows only few."""
        if (match := _ENCODING.search(text)) is None:
            return text
        encoding = match[1].decode()
        try:
            return text.decode(encoding).encode()
        except (LookupError, UnicodeError) as error:
            raise InputError(f"{self.path} is no text in {encoding} ({error}).") from error

    def _drawn_on(self) -> tuple[int, int] | None:
        """The size in pixels that the annotation names; some tools leave it 0."""
        try:
            width, height = (int(float(self._size[name])) for name in ("width", "height"))
        except (KeyError, ValueError, OverflowError):
            return None
        return (width, height) if min(width, height) > 0 else None

    def _flags(self, name: str) -> Bool[np.ndarray, " m"]:
        values = (o.get(f"annotation/object/{name}", "") for o in self._objects)
        return np.array([self._is_set(name, value.strip().lower()) for value in values], bool)

    def _is_set(self, name: str, value: str) -> bool:
        """Whether a flag is set; some tools write words, or how much of an object is hidden."""
        if value in _TRUE + _FALSE:
            return value in _TRUE
        try:
            return float(value) > 0
        except ValueError:
            raise InputError(f"{self.path}: {name} is {value[:40]!r}, expected 0 or 1.") from None

    def _box(self, found: dict[str, str]) -> list[float]:
        try:
            corners = [float(found[f"annotation/object/bndbox/{name}"]) for name in _CORNERS]
        except (KeyError, ValueError):
            corners = []
        if not corners or not np.isfinite(corners).all():
            raise InputError(
                f"{self.path} has an object whose bndbox lacks a number; expected "
                f"{', '.join(_CORNERS)}."
            )
        x0, y0, x1, y1 = corners[0] - 1, corners[1] - 1, corners[2], corners[3]
        if x1 <= x0 or y1 <= y0:
            raise InputError(
                f"{self.path} has an object whose box is empty: {corners}. Expected "
                "xmin < xmax and ymin < ymax; mend the file, or leave such images out."
            )
        return [x0, y0, x1, y1]

    def _refuse(self, what: str) -> Callable[..., NoReturn]:
        def refuse(*_) -> NoReturn:
            raise InputError(
                f"{self.path} declares {what}, which no annotation needs and which could expand "
                "without end; the file was not read further. Remove the declaration."
            )

        return refuse

    def _start(self, name: str, _attributes) -> None:
        self._root = self._root or name
        self._open.append(name)
        if len(self._open) > _MAX_DEPTH:
            raise InputError(f"{self.path} is nested more than {_MAX_DEPTH} deep.")
        if self._open == ["annotation", "object"]:
            self._objects.append({})
        elif self._open[:2] == ["annotation", "object"]:
            self._once(self._objects[-1], "/".join(self._open))
        elif self._open[:2] == ["annotation", "size"] and len(self._open) == 3:
            self._once(self._size, name)

    def _once(self, fields: dict[str, str], place: str) -> None:
        """Begins a field; one that is read and given twice would be two values joined to one."""
        if place in fields and place.removeprefix("annotation/object/") in _READ_ONCE:
            raise InputError(f"{self.path} gives {place.rpartition('/')[2]} of an object twice.")
        fields.setdefault(place, "")

    def _end(self, _name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if self._open[:2] == ["annotation", "object"]:
            place = "/".join(self._open)
            self._objects[-1][place] = self._objects[-1].get(place, "") + text
        elif self._open[:2] == ["annotation", "size"] and len(self._open) == 3:
            self._size[self._open[2]] = self._size.get(self._open[2], "") + text


_READ_ONCE = frozenset(
    {
        *("name", "truncated", "difficult", "width", "height"),
        *("bndbox", *(f"bndbox/{corner}" for corner in ("xmin", "ymin", "xmax", "ymax"))),
    }
)
"""What an object, or the size of an image, has one of."""
