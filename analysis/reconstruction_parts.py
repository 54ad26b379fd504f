"""On which images do probes learn, and on which are they judged? Never the same ones."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from analysis.options import ReconstructionOptions
from regvit_jax.data import Source, open_source
from regvit_jax.errors import InputError

JUDGED_SHARE = 0.2
"""Of data that has no parts."""


class Part(NamedTuple):
    """Some images of a source."""

    source: Source
    indices: Int[np.ndarray, " n"]


def open_parts(options: ReconstructionOptions) -> tuple[Part, Part]:
    """The images to learn from and those to judge on: in order, the same for all models.

    Raises:
      InputError: If there are too few.
    """
    training, judged = (open_source(options.data, split) for split in ("train", "val"))
    if (training.name, training.file_names) != (judged.name, judged.file_names):
        first, second = np.arange(len(training)), np.arange(len(judged))
    else:
        order = np.random.default_rng(options.seed).permutation(len(judged))
        num_judged = max(1, round(JUDGED_SHARE * len(judged)))
        first, second = order[num_judged:], order[:num_judged]
    if len(first) < 2:
        raise InputError(f"Probes need at least 2 training images; {training.name} has too few.")
    return (
        Part(training, _draw(first, options.num_train_images, options.seed)),
        Part(judged, _draw(second, options.num_images, options.seed)),
    )


def _draw(indices, count: int, seed: int) -> Int[np.ndarray, " n"]:
    """Some of the images in order; all of them where `count` is 0 or too large."""
    if not count or count >= len(indices):
        return np.sort(indices)
    generator = np.random.default_rng(seed)
    return np.sort(generator.choice(indices, count, replace=False))
