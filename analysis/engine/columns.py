"""Where does what is kept of every image wait until it is measured? In columns, on disk.

A column is an array whose first axis is the images'. It is a file of raw rows beside `state.json`,
which says how many of them count: a command that was stopped goes on after the last saved state.
Memory holds what is read, never a data set.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz
from regvit_jax.strict_json import expect, read_json
from regvit_jax.whole import write_whole

INDEX, LABEL = "index", "label"
"""Columns of every pass: an image's place in its source, and its class."""
BLOCK_ROWS = 512
SECONDS_BETWEEN_SAVES = 2.0
STATE_FILE, FOLD_FILE = "state.json", "fold.npz"

Rows = Mapping[str, Shaped[np.ndarray, "rows ..."]]


class Columns:
    """Named columns of the same images, and sums over all of them.

    Args:
      arrays: The columns.
      folded: Arrays that belong to no single image, such as sums.
    """

    def __init__(self, arrays: Rows, folded: Mapping[str, np.ndarray] | None = None) -> None:
        self._arrays = dict(arrays)
        self.folded = dict(folded or {})
        self.skipped: list[str] = []
        """Messages of the images that could not be read."""

    @property
    def num_rows(self) -> int:
        """Images."""
        return len(next(iter(self._arrays.values()), ()))

    @property
    def indices(self) -> Int[np.ndarray, " rows"]:
        """The images' places in their source, rising."""
        return self.read(INDEX)

    @property
    def labels(self) -> Int[np.ndarray, " rows"]:
        """The images' classes."""
        return self.read(LABEL)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def mapped(self, name: str) -> Shaped[np.ndarray, "rows ..."]:
        """A column to read at random, without loading it."""
        return self._arrays[name]

    def read(
        self, name: str, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "rows ..."]:
        """Some rows of a column; all unless told otherwise."""
        return np.array(self.mapped(name)[start:stop])

    def blocks(
        self, *names: str, rows: int = BLOCK_ROWS
    ) -> Iterator[tuple[Shaped[np.ndarray, "rows ..."], ...]]:
        """The rows of some columns in order, a block at a time."""
        for start in range(0, self.num_rows, rows):
            yield tuple(self.read(name, start, start + rows) for name in names)


class StoredColumns(Columns):
    """Columns that grow batch by batch in a folder, and outlive a stop.

    Args:
      folder: Where the files are; what an earlier attempt saved there is taken up.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__({})
        self.folder = folder
        self.done = -1
        """The last image that was dealt with, by its place in the source; -1: none yet."""
        self._num_rows = 0
        self._kinds: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
        self._files: dict[str, Any] = {}
        self._saved_at = time.monotonic()
        if (folder / STATE_FILE).is_file():
            self._resume()

    @property
    def num_rows(self) -> int:
        return self._num_rows

    @property
    def row_bytes(self) -> int:
        """What one image takes on disk."""
        return sum(kind.itemsize * int(np.prod(shape)) for kind, shape in self._kinds.values())

    def append(self, rows: Rows, folded: Mapping[str, np.ndarray] | None = None) -> None:
        """Adds the rows of a batch.

        Args:
          rows: An array for every column, always the same ones.
          folded: Takes the place of what was folded before.

        Raises:
          ValueError: If the columns differ from those of earlier batches, or in their length.
        """
        arrays = {name: np.ascontiguousarray(array) for name, array in rows.items()}
        found = {name: (array.dtype, array.shape[1:]) for name, array in arrays.items()}
        counts = {len(array) for array in arrays.values()}
        if found != (self._kinds or found) or len(counts) != 1:
            raise ValueError(f"Rows of {found} and lengths {counts} do not fit {self._kinds}.")
        self._kinds = found
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, array in arrays.items():
            self._file(name).write(array.data)
        self._num_rows += counts.pop()
        self.folded = dict(folded or {})

    def save_now_and_then(self) -> None:
        """Saves if the last time is a while ago."""
        if time.monotonic() - self._saved_at > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """What was added so far outlives a stop from here on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for file in self._files.values():
            file.flush()
        fold = f"{self._num_rows}-{FOLD_FILE}"
        if self.folded:
            partial = self.folder / f"partial-{FOLD_FILE}"
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **self.folded)
            partial.rename(self.folder / fold)
        kinds = {name: [kind.str, list(shape)] for name, (kind, shape) in self._kinds.items()}
        state = {"rows": self._num_rows, "done": self.done, "columns": kinds}
        write_whole(self.folder / STATE_FILE, json.dumps(state | {"skipped": self.skipped}))
        for old in self.folder.glob(f"*-{FOLD_FILE}"):
            if old.name != fold:
                old.unlink()
        self._saved_at = time.monotonic()

    def close(self) -> None:
        """Saves, and closes the files."""
        self.save()
        for file in self._files.values():
            file.close()
        self._files = {}

    def __contains__(self, name: str) -> bool:
        return name in self._kinds

    def mapped(self, name: str) -> Shaped[np.ndarray, "rows ..."]:
        kind, shape = self._kinds[name]
        if name in self._files:
            self._files[name].flush()
        if not self._num_rows or not int(np.prod(shape)):
            return np.zeros((self._num_rows, *shape), kind)
        return np.memmap(self._path(name), kind, "r", shape=(self._num_rows, *shape))

    def _file(self, name: str) -> Any:
        """The open file of a column, cut off after its last row that counts."""
        if name not in self._files:
            file = self._path(name).open("ab")
            kind, shape = self._kinds[name]
            file.truncate(self._num_rows * kind.itemsize * int(np.prod(shape)))
            self._files[name] = file
        return self._files[name]

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.rows"

    def _resume(self) -> None:
        """Takes up an earlier attempt; one that is not whole counts as none."""
        try:
            state = read_json(self.folder / STATE_FILE)
            rows = expect(state.get("rows"), int, "rows")
            done = expect(state.get("done"), int, "done")
            kinds = _kinds(expect(state.get("columns"), dict, "columns"))
            skipped = expect(state.get("skipped"), list, "skipped")
            for name, (kind, shape) in kinds.items():
                if os.path.getsize(self._path(name)) < rows * kind.itemsize * int(np.prod(shape)):
                    return
            fold = self.folder / f"{rows}-{FOLD_FILE}"
            folded = read_npz(fold) if fold.is_file() else {}
        except (InputError, OSError, ValueError, TypeError):
            return
        self._num_rows, self.done, self._kinds, self.folded = rows, done, kinds, folded
        self.skipped = [str(message) for message in skipped]


def _kinds(columns: Mapping[str, Sequence[Any]]) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    return {name: (np.dtype(kind), tuple(shape)) for name, (kind, shape) in columns.items()}
