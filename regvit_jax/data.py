"""Where do images come from, and how do they arrive in batches, decoded in parallel?"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.folders import folder_names, image_names
from regvit_jax.images import SUFFIXES, read_image
from regvit_jax.preprocess import Preprocess
from regvit_jax.splits import ALIASES, resolve_split
from regvit_jax.threads import run_ahead

SKIP_ADVICE = "To leave such images out: --skip-unreadable."


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


def read_encoded(path: Path, label: int) -> Encoded:
    """A file's bytes.

    Raises:
      InputError: If it is there no longer.
    """
    if not path.is_file():
        raise InputError(f"There is no image at {path}.")
    return Encoded(path.read_bytes(), label, str(path))


class Batch(NamedTuple):
    """Images side by side; a last, smaller batch is padded with black ones."""

    pixels: UInt8[np.ndarray, "b h w v"]
    """RGB, and what else the preprocessing hands over."""
    labels: Int[np.ndarray, " b"]
    indices: Int[np.ndarray, " b"]
    """Places in the source; -1 for padding."""

    @property
    def is_real(self) -> Bool[np.ndarray, " b"]:
        return self.indices >= 0


NO_BOXES = np.zeros((0, 4))


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


def process_slice(
    indices: Int[np.ndarray, " b"], process_index: int, process_count: int
) -> Int[np.ndarray, " n"]:
    """The rows of a global batch that one of several hosts reads: its block of neighbours.

    The blocks of all hosts, one after the other, are the batch.

    Raises:
      InputError: If the batch cannot be shared out evenly.
    """
    if len(indices) % process_count:
        raise InputError(
            f"A batch of {len(indices)} images cannot be shared evenly by {process_count} "
            f"processes. Choose a batch size that {process_count} divides."
        )
    size = len(indices) // process_count
    return indices[process_index * size : (process_index + 1) * size]


def open_source(data: str, split: str = "val") -> Source:
    """The images that a command's `--data` names.

    Args:
      data: "digits" for the embedded data set (`regvit_jax.digits`); a folder of images, of class
        folders, or with a folder for each split; the folder or the name of a data set that
        TensorFlow Datasets prepared (`regvit_jax.prepared`).
      split: "train", "val", or another that the data set has.

    Raises:
      InputError: If there are no images there.
    """
    root = Path(data).expanduser()
    if data == "digits" and not root.exists():
        from regvit_jax.digits import DigitsSource

        return DigitsSource.open(split)
    if root.is_dir():
        return _open_folder(root, split)
    if root.exists() or data.startswith((".", "/", "~")):
        raise InputError(f"There is no folder {data}. Expected images, or one folder a class.")
    from regvit_jax.prepared import find_prepared
    from regvit_jax.records import RecordSource

    return RecordSource.open(find_prepared(data), split, data)


def _open_folder(root: Path, split: str) -> Source:
    """What a folder holds: a prepared data set, a folder for each split, or images."""
    from regvit_jax.prepared import newest, prepared_in

    if prepared := prepared_in(root):
        from regvit_jax.records import RecordSource

        return RecordSource.open(newest(prepared, str(root)), split, str(root))
    from regvit_jax.voc import VocSource, voc_year

    if voc_year(root):
        return VocSource.open(root, split)
    if splits := split_folders(root, split):
        root = root / resolve_split(split, splits, str(root))
    return FolderSource.open(root)


def split_folders(root: Path, wanted: str | None = None) -> tuple[str, ...]:
    """The folders of a root that are one split each; none where it holds classes or images.

    Args:
      root: A folder; others may lie beside those of the splits if training's and validation's are
        there, otherwise not.
      wanted: A folder of this name is a split, whatever lies beside it.
    """
    folders = folder_names(root)
    known = {name for names in ALIASES.values() for name in names} | {wanted}
    found = tuple(name for name in folders if name in known)
    are_both_there = all(set(names) & set(found) for names in ALIASES.values())
    return found if wanted in found or are_both_there or len(found) == len(folders) else ()


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


class Batches:
    """The images of a source in order, decoded by threads ahead of the reader.

    Args:
      source: Where the images come from.
      preprocess: What becomes of each; the result's size is the batch's.
      batch_size: Images in a batch; the last one is padded.
      indices: Which images, in which order; all unless given.
      workers: Decoding threads; one per core unless given.
      skip_unreadable: Leave out images that cannot be read, instead of stopping.
    """

    def __init__(
        self,
        source: Source,
        preprocess: Preprocess,
        batch_size: int,
        indices: Int[np.ndarray, " n"] | None = None,
        workers: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        self.source, self.preprocess, self.batch_size = source, preprocess, batch_size
        self.indices = np.arange(len(source)) if indices is None else indices
        self.workers = workers or os.cpu_count() or 1
        self.skip_unreadable = skip_unreadable
        self.skipped: list[str] = []
        """Messages of the images that were left out so far."""

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        rows = []
        for row in self._rows():
            rows.append(row)
            if len(rows) == self.batch_size:
                yield self._batch(rows)
                rows = []
        if rows:
            yield self._batch(rows)

    def _rows(self) -> Iterator[tuple[UInt8[np.ndarray, "h w v"], int, int]]:
        """Pixels, label and index of each readable image, in order; at most two batches ahead."""
        ahead = 2 * self.batch_size
        for future in run_ahead(self._read, map(int, self.indices), ahead, self.workers):
            yield from self._result(future)

    def _read(self, index: int):
        sample = self.source[index]
        return self.preprocess.pixels(sample.image), sample.label, index

    def _result(self, future):
        try:
            yield future.result()
        except InputError as error:
            if not self.skip_unreadable:
                raise InputError(f"{error} {SKIP_ADVICE}") from None
            self.skipped.append(str(error))

    def _batch(self, rows) -> Batch:
        size = self.batch_size
        pixels = np.zeros((size, *self.preprocess.shape), np.uint8)
        labels, indices = np.full(size, -1), np.full(size, -1)
        for i, (image, label, index) in enumerate(rows):
            pixels[i], labels[i], indices[i] = image, label, index
        return Batch(pixels, labels, indices)
