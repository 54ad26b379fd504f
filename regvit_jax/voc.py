"""What does a Pascal VOC root hold? Photographs with the boxes of their objects.

VOC counts pixels from 1 and includes the last one; a box (xmin, ymin, xmax, ymax) is here
(xmin - 1, ymin - 1, xmax, ymax), half-open.

Reference: `extract_gt_VOC` of valeoai/LOST subtracts the same.
"""

import dataclasses
import re
import xml.parsers.expat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.errors import InputError
from regvit_jax.images import SUFFIXES, read_image
from regvit_jax.source import NO_BOXES, Encoded, Sample, read_encoded

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
WHOLE = "trainval"
_YEAR = re.compile(r"VOC20\d\d$")
_NAMED = 5  # of many missing files, an error names so many
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Annotation(NamedTuple):
    """The objects of one image."""

    names: tuple[str, ...]
    """The class of each object."""
    boxes: Float[np.ndarray, "m 4"]
    is_truncated: Bool[np.ndarray, " m"]
    is_difficult: Bool[np.ndarray, " m"]


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
        found = self.annotation(index)
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
        """The objects of an image, without decoding it; none in a root without annotations.

        Raises:
          InputError: If the annotation is missing or broken.
        """
        if not (self.root / ANNOTATIONS).is_dir():
            return NOTHING
        name = Path(self.file_names[index]).with_suffix(".xml")
        return read_annotation(self.root / ANNOTATIONS / name)

    @classmethod
    def open(cls, root: Path, split: str = WHOLE) -> "VocSource":
        """One list of a VOC root; `trainval` where there is no list of that name.

        Args:
          root: Where `voc_year` finds a year.
          split: A file of ImageSets/Main, without its suffix.

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
        split, stems = _read_list(year, split)
        files = {path.stem: path.name for path in (year / IMAGES).iterdir() if _is_image(path)}
        return cls(year, split, tuple(files.get(stem, f"{stem}.jpg") for stem in stems))


def voc_year(root: Path) -> Path | None:
    """The folder VOC20xx that a root is or holds (in VOCdevkit, too); None if it is no VOC root.

    Raises:
      InputError: If it holds several years.
    """
    if _is_year(root):
        return root
    years = sorted(
        path
        for folder in (root, root / "VOCdevkit")
        if folder.is_dir()
        for path in folder.iterdir()
        if _YEAR.search(path.name) and _is_year(path)
    )
    if len(years) > 1:
        raise InputError(f"{root} holds {len(years)} years of VOC. Name one: {_joined(years)}.")
    return years[0] if years else None


def read_annotation(path: Path) -> Annotation:
    """The objects that an XML file of VOC describes.

    A document type or an entity is refused: neither belongs there, and expanding entities can fill
    the memory.

    Raises:
      InputError: If the file is missing, no XML, or no annotation.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"There is no annotation at {path}.") from None
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
        self._root = ""

    def parse(self, text: bytes) -> None:
        parser = xml.parsers.expat.ParserCreate()
        parser.StartDoctypeDeclHandler = self._refuse("a document type")
        parser.EntityDeclHandler = self._refuse("an entity")
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        try:
            parser.Parse(text, True)
        except xml.parsers.expat.ExpatError as error:
            raise InputError(f"{self.path} is broken XML ({error}).") from error
        if self._root != "annotation":
            raise InputError(
                f"{self.path} is no VOC annotation: its root is <{self._root}>, not <annotation>."
            )

    def annotation(self) -> Annotation:
        boxes = np.array([self._box(o) for o in self._objects], np.float64).reshape(-1, 4)
        flags = [self._flags(name) for name in ("truncated", "difficult")]
        names = tuple(o.get("annotation/object/name", "").strip() for o in self._objects)
        return Annotation(names, boxes, *flags)

    def _flags(self, name: str) -> Bool[np.ndarray, " m"]:
        values = (o.get(f"annotation/object/{name}", "0").strip() for o in self._objects)
        return np.array([value == "1" for value in values], bool)

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
        if self._open == ["annotation", "object"]:
            self._objects.append({})

    def _end(self, _name: str) -> None:
        self._open.pop()

    def _text(self, text: str) -> None:
        if self._open[:2] == ["annotation", "object"]:
            place = "/".join(self._open)
            self._objects[-1][place] = self._objects[-1].get(place, "") + text


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _is_year(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in (IMAGES, LISTS))


def _read_list(year: Path, split: str) -> tuple[str, list[str]]:
    """The list that is read, and the images it names."""
    lists = {path.stem: path for path in (year / LISTS).glob("*.txt")}
    chosen = split if split in lists else WHOLE
    if chosen not in lists:
        raise InputError(
            f"{year / LISTS} has neither {split}.txt nor {WHOLE}.txt. It has "
            f"{_joined(sorted(lists)) or 'no list'}."
        )
    # Lists of one class have a second column.
    stems = [line.split()[0] for line in lists[chosen].read_text().splitlines() if line.strip()]
    if not stems:
        raise InputError(f"{lists[chosen]} names no image.")
    return chosen, stems


def _joined(names) -> str:
    shown = [str(name) for name in list(names)[:_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > _NAMED else "")
