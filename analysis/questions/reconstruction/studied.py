"""What does `--protocol study` keep and measure? The notebook's steps in order."""

from typing import Any

import numpy as np

from regvit_jax.analysis.engine.analysis import (
    Asked,
    Key,
    Lead,
    Measured,
    Number,
    Quantity,
    Table,
)
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Images, Subject
from regvit_jax.analysis.questions.reconstruction.learning import BATCH_IMAGES, Budget
from regvit_jax.analysis.questions.reconstruction.probe_files import given_probe, probe_arrays
from regvit_jax.analysis.questions.reconstruction.probes import HIDDEN_RATIO, Mlp, start_mlp
from regvit_jax.analysis.questions.reconstruction.study import (
    FAULTS,
    PatchesOnly,
    StudyImages,
    fit_as_study,
    notebook_errors,
    study_errors,
)
from regvit_jax.analysis.questions.reconstruction.tokens import alone_tokens, patch_tokens
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3

TRAINING, VALIDATION, ALONE = "training", "validation", "alone"
STUDY = Table(
    "study",
    "The notebook's numbers",
    (),
    {
        "threshold": Quantity("98 % quantile of the norms"),
        "high": Quantity("summed error of the tokens at or above"),
        "low": Quantity("summed error of the other tokens"),
        "ratio_percent": Quantity("the first over the second, %"),
        "zero_high": Quantity("at or above, predicting nothing"),
        "zero_low": Quantity("the others, predicting nothing"),
        "num_images": Quantity("images"),
        "num_batches": Quantity("batches"),
        "num_empty_batches": Quantity("batches without a token at or above"),
    },
    on_page=True,
)


def check(asked: Asked) -> None:
    """Raises InputError if a part has less than a batch of images."""
    for images, name in ((asked.training, TRAINING), (asked.images, VALIDATION)):
        if images is not None and len(images.indices) < BATCH_IMAGES:
            raise InputError(
                f"--protocol study uses full batches of {BATCH_IMAGES} images; there are "
                f"{len(images.indices)} {name} images. Ask for more with --num-images and "
                "--num-train-images."
            )


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Tokens to learn from, unless a probe is given, and those of the patches alone."""
    found = {ALONE: alone_tokens(subject, asked.images, PatchesOnly)}
    if asked.options.probe is None and asked.training is not None:
        last = subject.config.depth - 1
        found[TRAINING] = patch_tokens(subject, asked.training, last)
        found[VALIDATION] = patch_tokens(subject, asked.images, last)
    return found


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """The notebook's numbers; resampling images says nothing about them."""
    given = given_probe(asked.options, subject.config)
    if given is None:
        probe, learned = _learn(subject, kept, asked)
    else:
        probe, learned = given[0], {"file": str(asked.options.probe), "info": given[1]}
    alone = _full(subject, kept[ALONE], asked.images)
    errors = study_errors(probe, subject.preprocess)
    blocks = [[np.asarray(x) for x in errors(*block)] for block in alone.batches(BATCH_IMAGES)]
    norms, squares, zeros = (np.concatenate(column) for column in zip(*blocks, strict=True))
    found = notebook_errors(norms, squares, zeros)
    numbers: dict[Key, Number] = {
        (STUDY.name, name): Estimate(value, found.num_images)
        for name, value in found._asdict().items()
        if value is not None
    }
    return Measured(
        found.num_images,
        numbers,
        {"training": learned},
        {f"study_probe_{subject.slug}.npz": probe_arrays(probe, learned)},
        remarks=[found.printed],
    )


def _learn(subject: Subject, kept: Kept, asked: Asked) -> tuple[Mlp, dict[str, Any]]:
    assert asked.training is not None
    options = asked.options
    training = _full(subject, kept[TRAINING], asked.training)
    validation = _full(subject, kept[VALIDATION], asked.images)
    budget = Budget(options.max_epochs, options.patience, options.seed, label=subject.label)
    dim, values = subject.config.embed_dim, subject.config.patch_size**2 * 3
    start = start_mlp(dim, HIDDEN_RATIO * dim, values, options.seed)
    probe, fitted = fit_as_study(
        training, validation, start, subject.preprocess, budget._replace(saved=kept.folder)
    )
    return probe, {
        "num_images": len(asked.training.indices),
        "validation_scores": fitted.scores,
        "num_epochs": len(fitted.scores),
        "stopped_early": fitted.stopped_early,
    }


def _full(subject: Subject, columns: Columns, images: Images) -> StudyImages:
    """The images of a part, of which there is a batch at least."""
    if columns.num_rows < BATCH_IMAGES:
        raise InputError(f"Fewer than {BATCH_IMAGES} images of {images.source.name} can be read.")
    grid = DeiT3(subject.config).layout((1, *subject.preprocess.shape)).grid
    return StudyImages(columns, subject.config.patch_size, grid)


def lead() -> list[Lead]:
    """The notebook's ratio."""
    return [Lead((STUDY.name, "ratio_percent"), "error of high-norm tokens, % of the others'")]


def facts() -> dict[str, Any]:
    """The notebook's faults, and how its numbers are to be read."""
    return {
        "faults": FAULTS,
        "note": "Sums of the means of batches of 64 images, as printed by the notebook; resampling "
        "images says nothing about them. Compare zero_high and zero_low: predicting nothing.",
    }
