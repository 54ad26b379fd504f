"""How are the images of a folder a source? Sorted by path; folders inside it are classes."""

import dataclasses
import functools
import os
import re
from pathlib import Path

from regvit_jax.errors import InputError
from regvit_jax.folders import image_names
from regvit_jax.images import SUFFIXES, read_image
from regvit_jax.source import NO_BOXES, Encoded, Sample, Source, composed, read_encoded
from regvit_jax.splits import ALIASES


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The images of a folder, sorted by path; folders inside it are classes."""

    root: Path
    file_names: tuple[str, ...]
    class_names: tuple[str, ...]
    title: str = ""
    """What results call the images; the folder's path unless given."""

    @property
    def name(self) -> str:
        return self.title or str(self.root)

    def __len__(self) -> int:
        return len(self.file_names)

    def __getitem__(self, index: int) -> Sample:
        return Sample(read_image(self.root / self.file_names[index]), self.label(index), NO_BOXES)

    def encoded(self, index: int) -> Encoded:
        """One image as it is stored.

        Raises:
          InputError: If it is there no longer.
        """
        return read_encoded(self.root / self.file_names[index], self.label(index))

    def label(self, index: int) -> int:
        """Index of an image's class folder; -1 where there are none."""
        folder = self.file_names[index].partition("/")[0]
        return self._labels[composed(folder)] if self.class_names else -1

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.class_names)}

    @classmethod
    def open(cls, root: Path) -> "FolderSource":
        """The images below a folder: directly in it, or in one folder a class.

        Links are followed, hidden files and folders are passed over, and a folder without images is
        no class. Names of classes are composed (Unicode NFC), however the disk writes them.

        Raises:
          InputError: If there is no such folder, no image in it, or several splits below it.
        """
        if not root.is_dir():
            raise InputError(f"There is no folder {root}. Expected images, or one folder a class.")
        files = image_names(root)
        if not files:
            raise InputError(
                f"There are no images in {root} (looked for {', '.join(sorted(SUFFIXES))}, in "
                f"folders inside it too){_instead(root)}."
            )
        _check_one_split(root, files)
        in_classes = all("/" in name for name in files)
        folders = {composed(name.partition("/")[0]) for name in files}
        _check_classes(root, folders if in_classes else set())
        return cls(root, tuple(files), tuple(sorted(folders)) if in_classes else ())


def why_no_classes(source: Source) -> str:
    """What keeps the images of a source without classes; empty if nothing is known.

    A stray photograph beside class folders is named.
    """
    from regvit_jax.records import RecordSource

    if isinstance(source, RecordSource) and source.hides_labels():
        return "Its labels are not published (-1). Choose another --split."
    if not isinstance(source, FolderSource) or source.class_names:
        return ""
    if source.title:
        return "They are named one by one."
    strays = [name for name in source.file_names if "/" not in name]
    if len(strays) == len(source.file_names):
        return f"They lie directly in {source.root}."
    return (
        f"Beside the folders in {source.root} lie {len(strays)} images, first {strays[0]}. Move "
        "them into a class folder, or away."
    )


def _instead(root: Path) -> str:
    """What a folder without images holds, by one example."""
    for parent, folders, names in os.walk(root):
        folders.sort()
        if visible := sorted(name for name in names if not name.startswith(".")):
            found = os.path.relpath(os.path.join(parent, visible[0]), root)
            return f"; it holds {found}" + (" and others" if len(visible) > 1 else "")
    return ""


def _check_classes(root: Path, folders: set[str]) -> None:
    """Raises if folders are no classes: parts of a data set, or masks beside photographs.

    Raises:
      InputError: Says which folder to name.
    """
    if len(folders) > 1 and all(map(_SPLIT.fullmatch, folders)):
        raise InputError(
            f"The folders in {root} look like parts of a data set, not like classes: "
            f"{', '.join(sorted(folders))}. Name one of them: --data {root / max(folders)}."
        )
    by_small = {folder.lower(): folder for folder in folders}
    pictures, masks = (sorted(by_small[n] for n in by_small if n in names) for names in _LAYOUT)
    if pictures and masks and len(pictures) + len(masks) == len(folders):
        raise InputError(
            f"{root} holds {masks[0]} beside {pictures[0]}: masks and labels are no photographs. "
            f"Name that folder: --data {root / pictures[0]}."
        )


_SPLIT = re.compile(rf"({'|'.join(n for names in ALIASES.values() for n in names)})[\W\d_]*", re.I)
_LAYOUT = (
    {"images", "image", "imgs", "img", "jpegimages", "photos"},
    {"masks", "mask", "labels", "annotations", "segmentation", "segmentations", "gt", "depth"}
    | {"segmentationclass", "segmentationobject"},
)
"""Folders of photographs, and of what belongs to them, in small letters."""


def _check_one_split(root: Path, files: list[str]) -> None:
    """Raises if there are several splits below a folder, which would be mixed.

    Raises:
      InputError: Names the folder that holds them.
    """
    known = {name for names in ALIASES.values() for name in names}
    found: dict[str, set[str]] = {}
    for folder in {name.rpartition("/")[0] for name in files}:
        parts = folder.split("/")
        for depth, part in enumerate(parts[1:], start=1):
            if part.lower() in known:
                found.setdefault("/".join(parts[:depth]), set()).add(part)
    for parent, splits in sorted(found.items()):
        if len(splits) > 1:
            raise InputError(
                f"{root / parent} holds the splits {', '.join(sorted(splits))}, which would be "
                f"mixed. Name that folder: --data {root / parent}, or one of the splits in it."
            )
