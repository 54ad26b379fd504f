"""How do images arrive in batches, decoded in parallel?"""

import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8

from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import Source
from regvit_jax.threads import run_ahead

SKIP_ADVICE = "To leave such images out: --skip-unreadable."


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
        self.skipped_indices: list[int] = []
        """Places in the source of the same images."""

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
        futures = run_ahead(self._read, map(int, self.indices), ahead, self.workers)
        for index, future in zip(self.indices.tolist(), futures, strict=True):
            yield from self._result(future, index)

    def _read(self, index: int):
        sample = self.source[index]
        return self.preprocess.pixels(sample.image), sample.label, index

    def _result(self, future, index: int):
        try:
            yield future.result()
        except InputError as error:
            if not self.skip_unreadable:
                raise InputError(f"{error} {SKIP_ADVICE}") from None
            self.skipped.append(str(error))
            self.skipped_indices.append(index)

    def _batch(self, rows) -> Batch:
        size = self.batch_size
        pixels = np.zeros((size, *self.preprocess.shape), np.uint8)
        labels, indices = np.full(size, -1), np.full(size, -1)
        for i, (image, label, index) in enumerate(rows):
            pixels[i], labels[i], indices[i] = image, label, index
        return Batch(pixels, labels, indices)


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
