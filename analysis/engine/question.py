"""What is a question? What is kept of each image, and what is made of it once all are known.

A question names the models it is about and, for each, what is to be kept: pure reductions of the
network's trace (`Keep`). What was kept comes back as columns, is measured model by model, and
written. No question runs the network over a data set: `regvit_jax.analysis.engine.passes` does,
once for all questions about the same model, part of the data and preprocessing.
"""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.extract import Compute, Forward, Reduce
from regvit_jax.analysis.engine.results import ResultFolder
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.batches import Batch
from regvit_jax.model import DeiT3, ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

Arrays = Mapping[str, np.ndarray]


def as_reduced(batch: Batch, reduced: Any) -> Arrays:
    """The rows of a reduction that names them itself."""
    del batch
    return reduced


def nothing(trace: ViTTrace, layout: TokenLayout) -> Arrays:
    """No rows of the network's."""
    del trace, layout
    return {}


@dataclasses.dataclass(frozen=True)
class Keep:
    """What is kept of each image of one part of the data."""

    key: tuple[Hashable, ...]
    """All that the columns depend on beside the model and the images: equal keys, equal columns."""
    images: Images
    preprocess: Preprocess
    reduce: Reduce = nothing
    """Runs on the device: from a trace and its layout to a tree of arrays, images first."""
    columns: Callable[[Batch, Any], Arrays] = as_reduced
    """Runs on the host: from a batch and its reduced tree to named rows, one for each image."""
    fold: Callable[[Arrays, Batch, Any], Arrays] | None = None
    """Runs on the host: adds a batch to what was folded of those before it (nothing at first)."""
    blocks: tuple[int, ...] | None = None
    """Blocks that `reduce` reads, from 0; None is all."""
    compute: Compute | None = None
    """Takes the place of `reduce`, and may run the network any number of times, with edits; reads
    the weights too, and `given`."""
    given: Any = None
    """Arrays for `compute`, as inputs of its program."""
    network: type[DeiT3] = DeiT3
    is_needed: bool = True
    """Whether the question cannot be answered if none of the images can be read."""

    def computed(self, forward: Forward, given: Any) -> Any:
        """The reduced tree of some images."""
        if self.compute is not None:
            return self.compute(forward, given)
        return self.reduce(forward.trace, forward.layout)


def shown_pixels(images: Images, preprocess: Preprocess, shown: Int[np.ndarray, " m"]) -> Keep:
    """Keeps the pixels of the images that figures show, as the column "pixels"."""
    return Keep(
        ("pixels",),
        images.only(shown),
        preprocess,
        columns=lambda batch, reduced: {"pixels": batch.pixels},
        blocks=(),
        is_needed=False,
    )


@dataclasses.dataclass(frozen=True)
class Kept:
    """What was kept of one model's images."""

    columns: Mapping[str, Columns]
    folder: Path
    """For what takes long to compute from them; outlives a stop, and goes with the columns."""

    def __getitem__(self, name: str) -> Columns:
        return self.columns[name]

    @property
    def skipped(self) -> list[str]:
        """Messages of the images that could not be read, each once."""
        return list(dict.fromkeys(m for columns in self.columns.values() for m in columns.skipped))


@dataclasses.dataclass(frozen=True)
class Question:
    """One analysis, its models and images opened and its options checked."""

    name: str
    options: ImageOptions
    subjects: Sequence[Subject]
    keeps: Callable[[Subject], Mapping[str, Keep]]
    """What is kept of a model's images, under the question's own names."""
    measure: Callable[[Subject, Kept], Any]
    """A model's entry for `write`."""
    write: Callable[[ResultFolder, list[Any]], dict[str, Any]]
    """Writes figures and tables from the models' entries; returns what results.json says."""
    fits: bool = False
    """Whether measuring takes long enough to be a stage of its own."""
    file_checksum: str = ""
    """A checksum of the analysis's own file, where it is none of the tool's."""

    @property
    def configuration(self) -> dict[str, Any]:
        """All that results depend on, as JSON.

        Raises:
          InputError: If a checkpoint is none, or there are no images.
        """
        own = {"analysis_file": self.file_checksum} if self.file_checksum else {}
        return self.options.configuration() | own
