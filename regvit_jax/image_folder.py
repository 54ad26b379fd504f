"""How are the images of a folder a source? Sorted by path; folders inside it are classes."""

import dataclasses
import functools
from pathlib import Path

from regvit_jax.errors import InputError
from regvit_jax.folders import image_names
from regvit_jax.images import SUFFIXES, read_image
from regvit_jax.source import NO_BOXES, Encoded, Sample, read_encoded


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """The images of a folder, sorted by path; folders inside it are classes."""

    root: Path
    file_names: tuple[str, ...]
    class_names: tuple[str, ...]

    @property
    def name(self) -> str:
        return str(self.root)

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
        return self._labels[self.file_names[index].split("/")[0]] if self.class_names else -1

    @functools.cached_property
    def _labels(self) -> dict[str, int]:
        return {name: label for label, name in enumerate(self.class_names)}

    @classmethod
    def open(cls, root: Path) -> "FolderSource":
        """The images below a folder: directly in it, or in one folder a class.

        Links are followed, hidden files and folders are passed over, and a folder without images is
        no class.

        Raises:
          InputError: If there is no such folder, or no image in it.
        """
        if not root.is_dir():
            raise InputError(f"There is no folder {root}. Expected images, or one folder a class.")
        files = image_names(root)
        if not files:
            raise InputError(
                f"There are no images in {root} (looked for {', '.join(sorted(SUFFIXES))}, in "
                "folders inside it too)."
            )
        in_classes = all("/" in name for name in files)
        classes = sorted({name.split("/")[0] for name in files}) if in_classes else []
        return cls(root, tuple(files), tuple(classes))
