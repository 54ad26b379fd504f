"""What does a Pascal VOC root hold? Photographs with the boxes of their objects, in lists."""

import dataclasses
import functools
import os
import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from regvit_jax.annotations import NOTHING, Annotation, in_frame, read_annotation
from regvit_jax.errors import InputError
from regvit_jax.folders import visible
from regvit_jax.images import SUFFIXES, read_head, read_image, read_indices, read_size
from regvit_jax.source import VOID, Encoded, Sample, read_encoded
from regvit_jax.splits import UNDIVIDED

IMAGES, ANNOTATIONS, LISTS = "JPEGImages", "Annotations", "ImageSets/Main"
MASKS = "SegmentationClass"
WHOLE = "trainval"
CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
"""Classes of objects; a mask has them from 1 on."""
_HALVES = ("train", "val")
"""Splits that `WHOLE` stands for where they have no list."""
_DEPTH = 3  # folders below a root in which a year is looked for
_MANY = 24  # folders in one that is no root of VOC
_NAMED = 5  # of many missing files, an error names so many


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
        note = (self.root / ANNOTATIONS / self.file_names[index]).with_suffix(".xml")
        path = self.path(index)
        return in_frame(read_annotation(note), read_head(path), path)

    @property
    def mask_classes(self) -> tuple[str, ...]:
        """Background, then the objects' classes."""
        return ("background", *CLASSES)

    @functools.cached_property
    def masked(self) -> Int[np.ndarray, " n"]:
        """The images that have a mask: in VOC 2012, 2,913 of 11,540."""
        there = {path.stem for path in (self.root / MASKS).glob("*.png")}
        found = [i for i, name in enumerate(self.file_names) if Path(name).stem in there]
        return np.array(found, int)

    def mask(self, index: int) -> UInt8[np.ndarray, "h w"]:
        """The class of every pixel; `VOID` along the outlines of objects.

        Raises:
          InputError: If there is no mask, or it cannot be one of this image.
        """
        path = (self.root / MASKS / self.file_names[index]).with_suffix(".png")
        if not path.is_file():
            raise InputError(f"There is no mask at {path}.")
        values = read_indices(path)
        size = read_size(self.path(index))
        if values.shape != size[::-1]:
            raise InputError(
                f"{path} has {values.shape[1]} x {values.shape[0]} px, its image {size[0]} x "
                f"{size[1]}."
            )
        unknown = np.setdiff1d(values, [*range(len(self.mask_classes)), VOID])
        if len(unknown):
            raise InputError(
                f"{path} has the value {unknown[0]}; expected 0 to {len(CLASSES)}, or {VOID} where "
                "nothing is said. VOC's masks are PNGs with a palette."
            )
        return values

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
        return cls(year, split, _files_of(year / IMAGES, stems))


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


def _files_of(folder: Path, stems: list[str]) -> tuple[str, ...]:
    """The file of each image of a list; one that is not there is reported when it is read."""
    files: dict[str, list[str]] = {}
    for name in sorted(path.name for path in folder.iterdir() if _is_image(path)):
        files.setdefault(Path(name).stem, []).append(name)
    if twins := next((files[stem] for stem in stems if len(files.get(stem, ())) > 1), None):
        raise InputError(
            f"{folder} holds {' and '.join(twins)}: nothing says which of them a list means. Move "
            "one of them away."
        )
    return tuple(files.get(stem, [f"{stem}.jpg"])[0] for stem in stems)


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
    text = _text_of(lists[chosen].read_bytes())
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    stems = [name[: -len(Path(name).suffix)] if _is_image(Path(name)) else name for name in names]
    if not stems:
        raise InputError(f"{lists[chosen]} names no image.")
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise InputError(f"{lists[chosen]} names {twice!r} twice. Leave one out.")
    if foreign := next((stem for stem in stems if "/" in stem), None):
        raise InputError(
            f"{lists[chosen]} names {foreign!r}; expected names of images in {IMAGES}, without a "
            "folder."
        )
    return chosen, stems


def _text_of(data: bytes) -> str:
    """A list's text, whichever mark a Windows editor has put at its start."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))


def _joined(names) -> str:
    shown = [str(name) for name in list(names)[:_NAMED]]
    return ", ".join(shown) + (", ..." if len(names) > _NAMED else "")
