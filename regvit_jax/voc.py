"""What does a Pascal VOC root hold? Photographs with the boxes of their objects.

VOC counts pixels from 1 and includes the last one; a box (xmin, ymin, xmax, ymax) is here
(xmin - 1, ymin - 1, xmax, ymax), half-open.

Reference: `extract_gt_VOC` of valeoai/LOST subtracts the same.
"""

import dataclasses
import os
import re
import warnings
import xml.parsers.expat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.boxes import turned_upright
from regvit_jax.errors import InputError
from regvit_jax.folders import visible
from regvit_jax.images import SUFFIXES, Head, read_head, read_image
from regvit_jax.source import NO_BOXES, Encoded, Sample, read_encoded
from regvit_jax.splits import UNDIVIDED

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
WHOLE = "trainval"
_HALVES = ("train", "val")
"""Splits that `WHOLE` stands for where they have no list."""
_DEPTH = 3  # folders below a root in which a year is looked for
_MANY = 24  # folders in one that is no root of VOC
_MAX_BYTES, _MAX_DEPTH = 16 * 2**20, 100  # of an annotation
_ENCODING = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([\w.:-]+)["']""")
_TRUE, _FALSE = ("true", "yes"), ("", "false", "no", "unspecified")
_NAMED = 5  # of many missing files, an error names so many
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


@dataclasses.dataclass(frozen=True)
class VocSource:
    """The images of one list of a VOC root, in the list's order."""

    root: Path
    """Holds JPEGImages, Annotations and ImageSets."""
    split: str
    """The list: "trainval", "train", "val", ..."""
    file_names: tuple[str, ...]
    """Inside JPEGImages."""
    class_names: tuple[str, ...] = ()
    """Empty: an image shows objects of several classes."""

    @property
    def name(self) -> str:
        return f"{self.root} {self.split}"

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, index: int) -> Sample:
        has_any = (self.root / ANNOTATIONS).is_dir()
        found = self.annotation(index) if has_any else NOTHING
        image = read_image(self.path(index))
        return Sample(image, -1, found.boxes, found.is_truncated, found.is_difficult)

    def encoded(self, index: int) -> Encoded:
        """One image as it is stored.

        Raises:
          InputError: If it is missing.
        """
        return read_encoded(self.path(index), label=-1)

    def path(self, index: int) -> Path:
        """Where an image lies."""
        return self.root / IMAGES / self.file_names[index]

    def annotation(self, index: int) -> Annotation:
        """The objects of an image, without decoding it.

        Boxes that were drawn on an image before EXIF turned it are turned with it.

        Raises:
          InputError: If there are no annotations, this one is missing or broken, or was drawn on an
            image of another size, or it cannot be told which way up.
        """
        if not (self.root / ANNOTATIONS).is_dir():
            raise InputError(f"{self.root} has no folder {ANNOTATIONS} with annotations.")
        name = Path(self.file_names[index]).with_suffix(".xml")
        found = read_annotation(self.root / ANNOTATIONS / name)
        return _upright(found, read_head(self.path(index)), self.path(index))

    @classmethod
    def open(cls, root: Path, split: str = WHOLE) -> "VocSource":
        """One list of a VOC root; `trainval` stands for train and val where these are not divided.

        Args:
          root: Where `voc_year` finds a year.
          split: A file of ImageSets/Main, without its suffix. Where there are no such files, all
            images with an annotation are one part, which stands for each of these three.

        Raises:
          InputError: If it is no VOC root, or has no such list. Missing images and annotations are
            reported where they are read.
        """
        year = voc_year(root)
        if year is None:
            raise InputError(
                f"{root} is no VOC root: expected {IMAGES} and {LISTS} in it, or in one "
                "VOCdevkit/VOC20xx below it."
            )
        if not any((year / LISTS).glob("*.txt")):
            return cls(year, UNDIVIDED, _annotated(year, split))
        split, stems = _read_list(year, split)
        files = {path.stem: path.name for path in (year / IMAGES).iterdir() if _is_image(path)}
        return cls(year, split, tuple(files.get(stem, f"{stem}.jpg") for stem in stems))


def voc_year(root: Path) -> Path | None:
    """The folder of VOC's form that a root is or holds; None if it is no VOC root.

    It is known by what it holds, whatever its name: JPEGImages, and ImageSets/Main or Annotations.

    Raises:
      InputError: If the root holds several.
    """
    # By its real place: links may lead to one year twice.
    years = sorted({path.resolve(): path for path in _years_in(root, _DEPTH)}.values())
    if len(years) > 1:
        raise InputError(f"{root} holds {len(years)} years of VOC. Name one: {_joined(years)}.")
    return years[0] if years else None


def _years_in(folder: Path, depth: int) -> list[Path]:
    """The years in a folder; one that holds images, or many folders, holds none."""
    if _is_year(folder):
        return [folder]
    below: list[Path] = []
    for entry in visible(folder) if depth else ():
        if entry.is_dir():
            below.append(folder / entry.name)
        if len(below) > _MANY or _is_image(Path(entry.name)):
            return []
    return [year for each in below for year in _years_in(each, depth - 1)]


def _upright(found: Annotation, head: Head, path: Path) -> Annotation:
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


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_year(folder: Path) -> bool:
    return (folder / IMAGES).is_dir() and any(
        (folder / name).is_dir() for name in (LISTS, ANNOTATIONS)
    )


def _annotated(year: Path, split: str) -> tuple[str, ...]:
    """The images with an annotation, sorted, of a root without lists; says so."""
    if split not in (*_HALVES, WHOLE, UNDIVIDED):
        raise InputError(
            f"{year} has no lists of images in {LISTS}, so nothing says which are {split!r}. Leave "
            "out --split to take all."
        )
    names = sorted(path.name for path in (year / IMAGES).iterdir() if _is_image(path))
    known = {path.stem for path in (year / ANNOTATIONS).glob("*.xml")}
    found = tuple(name for name in names if Path(name).stem in known)
    if not found:
        raise InputError(f"{year} has no image in {IMAGES} with an annotation in {ANNOTATIONS}.")
    warnings.warn(
        f"{year} has no lists of images in {LISTS}: all {len(found)} with an annotation are taken"
        + (
            f", {len(names) - len(found)} without are left out." if len(found) < len(names) else "."
        ),
        AssumedList,
        stacklevel=2,
    )
    return found


class AssumedList(UserWarning):
    """No list says which images of a root are meant."""


def _read_list(year: Path, split: str) -> tuple[str, list[str]]:
    """The list that is read, and the images it names."""
    lists = {path.stem: path for path in (year / LISTS).glob("*.txt")}
    chosen = WHOLE if split in _HALVES and split not in lists else split
    if chosen not in lists:
        wanted = f"no {split}.txt" if chosen == split else f"neither {split}.txt nor {chosen}.txt"
        raise InputError(
            f"{year / LISTS} has {wanted}. It has {_joined(sorted(lists)) or 'no list'}."
        )
    # Lists of one class have a second column; names may end in the image's suffix.
    text = os.fsdecode(lists[chosen].read_bytes().removeprefix(b"\xef\xbb\xbf"))
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    stems = [name[: -len(Path(name).suffix)] if _is_image(Path(name)) else name for name in names]
    if not stems:
        raise InputError(f"{lists[chosen]} names no image.")
    if foreign := next((stem for stem in stems if "/" in stem), None):
        raise InputError(
            f"{lists[chosen]} names {foreign!r}; expected names of images in {IMAGES}, without a "
            "folder."
        )
    return chosen, stems


def _joined(names) -> str:
    shown = [str(name) for name in list(names)[:_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > _NAMED else "")
