"""On which images do probes learn, and on which are they judged? Never the same ones."""

from typing import NamedTuple

import numpy as np

from regvit_jax.analysis.engine.subjects import Images, some_of
from regvit_jax.analysis.options import ProbingOptions
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.source import check_same_classes

JUDGED_SHARE = 0.2
"""Share that is set apart for judging, where the data has no parts."""


class Parts(NamedTuple):
    """The same for all models."""

    training: Images
    judged: Images
    is_own: bool
    """Whether the data have these parts; otherwise they were drawn here."""


def open_parts(options: ProbingOptions) -> Parts:
    """The images to learn from and those to judge on.

    Raises:
      InputError: If there are too few.
    """
    data = str(options.data)
    training, judged = (open_source(options.data, split) for split in ("train", "val"))
    is_own = (training.name, training.file_names) != (judged.name, judged.file_names)
    first, second = np.arange(len(training)), np.arange(len(judged))
    if not is_own:
        order = np.random.default_rng(options.seed).permutation(len(judged))
        num_judged = max(1, round(JUDGED_SHARE * len(judged)))
        first, second = np.sort(order[num_judged:]), np.sort(order[:num_judged])
    if len(first) < 2:
        raise InputError(
            f"Probes need at least 2 training images; {training.name} has too few "
            f"({len(first)}). Name more images after --data."
        )
    return Parts(
        Images((data, "train"), training, some_of(first, options.num_train_images, options.seed)),
        Images((data, "val"), judged, some_of(second, options.num_images, options.seed)),
        is_own,
    )


def open_labelled_parts(options: ProbingOptions) -> Parts:
    """As `open_parts`, of images of two or more classes.

    Raises:
      InputError: If the images have no labels, or the parts have different classes.
    """
    parts = open_parts(options)
    training, judged = parts.training.source, parts.judged.source
    for source in (training, judged):
        if not source.class_names:
            raise InputError(
                f"{source.name} has no classes; a probe needs labels. Expected one folder a class."
            )
    check_same_classes(training, judged)
    if len(training.class_names) < 2:
        raise InputError(
            f"{training.name} has the class {training.class_names[0]} only; a probe needs two or "
            "more."
        )
    return parts
