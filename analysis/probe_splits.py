"""Which images does a probe learn from, and which does it classify?"""

import dataclasses

import numpy as np
from jaxtyping import Int

from analysis.options import ProbeOptions
from regvit_jax.data import Source, check_same_classes, open_source
from regvit_jax.errors import InputError

VALIDATION_SHARE = 0.2
"""Of the images, where the data have no splits of their own."""


@dataclasses.dataclass(frozen=True)
class Splits:
    """Which images are learned from, and which are classified."""

    train: Source
    val: Source
    train_indices: Int[np.ndarray, " m"]
    val_indices: Int[np.ndarray, " n"]
    is_own: bool
    """Whether the data have these splits; otherwise they were drawn here."""


def choose_splits(options: ProbeOptions) -> Splits:
    """The training and validation images, the same for all models.

    Raises:
      InputError: If the images have no labels, or the splits have different classes.
    """
    train, val = (open_source(options.data, split) for split in ("train", "val"))
    for source in (train, val):
        if not source.class_names:
            raise InputError(
                f"{source.name} has no classes; a probe needs labels. Expected one folder a class."
            )
    check_same_classes(train, val)
    if len(train.class_names) < 2:
        raise InputError(
            f"{train.name} has the class {train.class_names[0]} only; a probe needs two or more."
        )
    is_own = (train.name, train.file_names) != (val.name, val.file_names)
    if is_own:
        parts = [np.arange(len(train)), np.arange(len(val))]
    else:
        parts = _divide(len(train), options.seed)
    chosen = _some(parts[0], options.num_train, options.seed)
    return Splits(train, val, chosen, _some(parts[1], options.num_images, options.seed), is_own)


def _divide(total: int, seed: int) -> list[np.ndarray]:
    """Random training and validation images of undivided data."""
    order = np.random.default_rng((seed, 2)).permutation(total)
    count = round(VALIDATION_SHARE * total)
    return [np.sort(order[count:]), np.sort(order[:count])]


def _some(indices: Int[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " m"]:
    if not count or count >= len(indices):
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, count, replace=False))
