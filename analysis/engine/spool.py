"""What has a stopped command already computed? Reduced batches on disk, for the next attempt.

A batch is a file that appears whole. It is found again by what it depends on: the options, the
model's files, the images' names and the versions of the libraries. All of it is removed when
everything is written, and after bad input; only a command that was stopped leaves it behind.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.engine.results import plain
from regvit_jax.batches import Batch
from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz


class SpooledBatch(NamedTuple):
    """One batch as it was; pixels are black but for the images that are shown."""

    batch: Batch
    leaves: list[np.ndarray]
    """Of the reduced tree."""
    skipped: list[str]
    """Messages of the images left out up to here."""


class Spool:
    """A folder of reduced batches, kept only if the work inside `with` is stopped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> "Spool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None or issubclass(kind, InputError):
            shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, key: Mapping[str, Any]) -> "SpooledPass":
        """The batches that depend on `key`, as far as an earlier attempt came."""
        text = json.dumps(plain(key), sort_keys=True)
        return SpooledPass(self.folder / hashlib.sha256(text.encode()).hexdigest()[:32])


class SpooledPass:
    """The reduced batches of one model and question, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._next = 0
        """The first batch that is missing."""
        while self._path(self._next).is_file():
            self._next += 1

    def __len__(self) -> int:
        return self._next

    def read(self, place: int) -> SpooledBatch | None:
        """One batch; None if its file is damaged, as after a failure of the machine."""
        try:
            found = read_npz(self._path(place))
        except (OSError, InputError):
            return None
        pixels = np.zeros(found["shape"], np.uint8)
        pixels[found["shown"]] = found["pixels"]
        leaves = [found[f"leaf_{i}"] for i in range(int(found["num_leaves"]))]
        batch = Batch(pixels, found["labels"], found["indices"])
        return SpooledBatch(batch, leaves, json.loads(str(found["skipped"])))

    def write(
        self,
        place: int,
        batch: Batch,
        leaves: Sequence[np.ndarray],
        shown: set[int],
        skipped: Sequence[str],
    ) -> None:
        """Keeps one batch."""
        rows = np.flatnonzero(np.isin(batch.indices, list(shown)))
        arrays = {f"leaf_{i}": leaf for i, leaf in enumerate(leaves)} | {
            "num_leaves": np.array(len(leaves)),
            "shape": np.array(batch.pixels.shape),
            "shown": rows,
            "pixels": batch.pixels[rows],
            "labels": batch.labels,
            "indices": batch.indices,
            "skipped": np.array(json.dumps(list(skipped))),
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"partial-{os.getpid()}"
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        os.replace(partial, self._path(place))

    def _path(self, place: int) -> Path:
        return self.folder / f"{place:06d}.npz"
