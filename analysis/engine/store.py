"""Where do numbers of every image wait until the last one is known? In temporary files.

A pooled threshold is known only after the pass over the images; what it is applied to waits here,
so that memory holds one block of images at a time.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Shaped

BLOCK_ROWS = 512


class ColumnStore:
    """Rows of named columns, each column in a file of its own, removed at the end.

    Args:
      columns: The width and type of each column.
      folder: Where the files are; the system's temporary folder unless given.
    """

    def __init__(self, columns: Mapping[str, tuple[int, Any]], folder: Path | None = None) -> None:
        self.columns = {name: (width, np.dtype(kind)) for name, (width, kind) in columns.items()}
        self.num_rows = 0
        self._folder = folder
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "ColumnStore":
        self._files = {name: tempfile.TemporaryFile(dir=self._folder) for name in self.columns}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Removes the files."""
        for file in self._files.values():
            file.close()

    def append(self, values: Mapping[str, Shaped[np.ndarray, "rows ..."]]) -> None:
        """Adds rows: an array for every column, whose axes after the first are laid side by side.

        Raises:
          ValueError: If the columns are not the store's, or differ in their number of rows.
        """
        if values.keys() != self.columns.keys():
            raise ValueError(f"Expected columns {set(self.columns)}, got {set(values)}.")
        counts = {array.shape[0] for array in values.values()}
        if len(counts) != 1:
            raise ValueError(f"Columns of different lengths: {sorted(counts)}.")
        (count,) = counts
        for name, (width, kind) in self.columns.items():
            rows = np.ascontiguousarray(values[name], kind).reshape(count, width)
            self._files[name].write(rows.data)
        self.num_rows += count

    def read(
        self, name: str, start: int = 0, stop: int | None = None
    ) -> Shaped[np.ndarray, "rows width"]:
        """Some rows of a column; all unless told otherwise."""
        width, kind = self.columns[name]
        stop = self.num_rows if stop is None else min(stop, self.num_rows)
        file, row_bytes = self._files[name], width * kind.itemsize
        file.flush()
        file.seek(start * row_bytes)
        return np.frombuffer(file.read((stop - start) * row_bytes), kind).reshape(-1, width)

    def blocks(
        self, *names: str, rows: int = BLOCK_ROWS
    ) -> Iterator[tuple[Shaped[np.ndarray, "rows _"], ...]]:
        """The rows of some columns in order, a block at a time."""
        for start in range(0, self.num_rows, rows):
            yield tuple(self.read(name, start, start + rows) for name in names)

    def mapped(self, name: str) -> Shaped[np.ndarray, "rows width"]:
        """A column to read at random, without loading it."""
        width, kind = self.columns[name]
        self._files[name].flush()
        if not self.num_rows:
            return np.zeros((0, width), kind)
        size = os.fstat(self._files[name].fileno()).st_size
        assert size == self.num_rows * width * kind.itemsize
        return np.memmap(self._files[name], kind, "r", shape=(self.num_rows, width))
