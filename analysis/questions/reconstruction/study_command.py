"""What does `regvit-analyze reconstruction --protocol study` do? The notebook's steps in order."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from regvit_jax.analysis.engine.extract import extract
from regvit_jax.analysis.engine.parts import Part
from regvit_jax.analysis.engine.results import ResultFolder
from regvit_jax.analysis.engine.store import ColumnStore
from regvit_jax.analysis.engine.subjects import Subject, open_batches
from regvit_jax.analysis.options import ReconstructionOptions
from regvit_jax.analysis.questions.reconstruction.command import given_probe, parts_json
from regvit_jax.analysis.questions.reconstruction.probes import (
    BATCH_IMAGES,
    HIDDEN_RATIO,
    Budget,
    Mlp,
    patch_features,
    save_probe,
    start_mlp,
)
from regvit_jax.analysis.questions.reconstruction.study import (
    FAULTS,
    ImageCache,
    NotebookErrors,
    PatchesOnly,
    fit_as_study,
    normed_tokens,
    notebook_errors,
    study_errors,
)
from regvit_jax.checkpoint import versions
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3


def write_study(
    folder: ResultFolder,
    subjects: Sequence[Subject],
    options: ReconstructionOptions,
    training: Part,
    judged: Part,
) -> dict[str, Any]:
    """Runs the notebook's computation for each model; what results.json says."""
    for part, name in ((training, "training"), (judged, "validation")):
        if len(part.indices) < BATCH_IMAGES:
            raise InputError(
                f"--protocol study uses full batches of {BATCH_IMAGES} images; there are "
                f"{len(part.indices)} {name} images. Ask for more with --num-images and "
                "--num-train-images."
            )
    models: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for subject in subjects:
        probe, found, learned, skipped = _study(subject, options, training, judged)
        save_probe(folder.path(f"study_probe_{subject.slug}.npz"), probe, learned)
        values = found._asdict()
        models.append(
            subject.to_json() | {"training": learned, "study": values | {"printed": found.printed}}
        )
        rows.append({"model": subject.label, **values})
    folder.write_table("study.csv", rows)
    return {
        "data": parts_json(training, judged, options, found.num_images, skipped),
        "faults": FAULTS,
        "note": "Sums of the means of batches of 64 images, as printed by the notebook; resampling "
        "images says nothing about them. Compare zero_high and zero_low: predicting nothing.",
        "models": models,
        "comparisons": [],
        "figures": [],
        "tables": [{"file": "study.csv", "title": "The notebook's numbers"}],
        "versions": versions(),
    }


def _study(
    subject: Subject, options: ReconstructionOptions, training: Part, judged: Part
) -> tuple[Mlp, NotebookErrors, dict[str, Any], list[str]]:
    model, params = subject.load(options.seed)
    budget = Budget(options.max_epochs, options.patience, options.seed, label=subject.label)
    given = given_probe(options, subject.config)
    if given is not None:
        probe, learned = given[0], {"file": str(options.probe), "info": given[1]}
    else:
        probe, learned = _learn(subject, model, params, options, training, judged, budget)
    errors, columns = study_errors(probe, subject.preprocess), []
    batches = open_batches(options, subject, judged.source, judged.indices)
    alone = PatchesOnly(model.config, model.dtype)
    label = f"{subject.label}, judging without CLS"
    for batch, tokens in extract(alone, params, batches, normed_tokens, (), label):
        columns.append([np.asarray(x) for x in errors(tokens, batch.pixels)])
    if sum(len(column[0]) for column in columns) < BATCH_IMAGES:
        raise InputError(f"Fewer than {BATCH_IMAGES} images of {judged.source.name} can be read.")
    norms, squares, zeros = (np.concatenate(column) for column in zip(*columns, strict=True))
    return probe, notebook_errors(norms, squares, zeros), learned, batches.skipped


def _learn(
    subject: Subject, model: DeiT3, params, options, training: Part, judged: Part, budget: Budget
) -> tuple[Mlp, dict[str, Any]]:
    config, size = subject.config, subject.preprocess
    layout = model.layout((size.height, size.width, 3))
    shape = (size.height, size.width)
    columns = ImageCache.columns(layout.num_patches, config.embed_dim, shape)
    with contextlib.ExitStack() as stack:
        caches = []
        for part, name in ((training, "training"), (judged, "validation")):
            store = stack.enter_context(ColumnStore(columns))
            batches = open_batches(options, subject, part.source, part.indices)
            reduce, label = patch_features(config.depth - 1), f"{subject.label}, {name}"
            for batch, features in extract(model, params, batches, reduce, (-1,), label):
                store.append({"tokens": features.tokens, "pixels": batch.pixels})
            if store.num_rows < BATCH_IMAGES:
                raise InputError(
                    f"Fewer than {BATCH_IMAGES} images of {part.source.name} can be read."
                )
            caches.append(ImageCache(store, layout.num_patches, shape))
        dim, values = config.embed_dim, config.patch_size**2 * 3
        start = start_mlp(dim, HIDDEN_RATIO * dim, values, options.seed)
        probe, fitted = fit_as_study(caches[0], caches[1], start, size, budget)
    return probe, {
        "num_images": len(training.indices),
        "validation_scores": fitted.scores,
        "num_epochs": len(fitted.scores),
        "stopped_early": fitted.stopped_early,
    }
