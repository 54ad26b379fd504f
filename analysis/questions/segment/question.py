"""How well do patches tell what they show? What is kept, measured and drawn for it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from regvit_jax.analysis.engine.analysis import (
    Analysis,
    Asked,
    Drawn,
    Key,
    Lead,
    Measured,
    Model,
    Number,
    Quantity,
    Table,
)
from regvit_jax.analysis.engine.parts import Parts, open_parts
from regvit_jax.analysis.engine.passes import run_after
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Images, Subject, some_of
from regvit_jax.analysis.questions.segment.figures import Bars, iou_figure
from regvit_jax.analysis.questions.segment.options import SegmentOptions
from regvit_jax.analysis.questions.segment.patches import (
    accuracy,
    ious,
    kept_counts,
    kept_samples,
    mean_iou,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.analysis.statistics.classifier import Linear, fit_linear
from regvit_jax.errors import InputError
from regvit_jax.source import MaskedSource

METHODS = {"linear": "a linear classifier", "map": "the map of CLS", "nothing": "all background"}
SEGMENT = Table(
    "segment",
    "Patch accuracy",
    ("method",),
    {
        "mean_iou": Quantity("mean IoU", is_share=True, is_compared=True),
        "accuracy": Quantity("patch accuracy", is_share=True, is_compared=True),
    },
    on_page=True,
    words=METHODS,
)
CLASSES = Table(
    "segment_classes",
    "IoU of each class, by a linear classifier",
    ("class",),
    {"iou": Quantity("IoU", is_share=True, is_compared=True)},
)
STRENGTHS = tuple(10.0 ** np.arange(-4.0, 2.0))


class Learned(NamedTuple):
    """The classifier, in the channels of the patches."""

    weights: np.ndarray
    intercepts: np.ndarray
    strength: float


def masked_parts(options: SegmentOptions) -> Parts:
    """The images with masks to learn from, and those to judge on.

    Raises:
      InputError: If the data have no masks, or too few.
    """
    parts = open_parts(dataclasses.replace(options, num_images=0, num_train_images=0))
    return parts._replace(
        training=_masked(parts.training, options.num_train_images, options.seed),
        judged=_masked(parts.judged, options.num_images, options.seed),
    )


def _masked(images: Images, count: int, seed: int) -> Images:
    source = images.source
    known = source.masked if isinstance(source, MaskedSource) else np.zeros(0, int)
    found = np.intersect1d(images.indices, known)
    if len(found) < 2:
        raise InputError(
            f"{source.name} has {len(found)} images with a mask; segment needs 2 or more. Expected "
            "a Pascal VOC root with SegmentationClass, or the embedded digits or cues."
        )
    return images.only(some_of(found, count, seed))


def ask(options: SegmentOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images with masks."""
    del checkpoints
    parts = masked_parts(options)
    assert isinstance(parts.judged.source, MaskedSource)
    facts = {
        "num_train": len(parts.training.indices),
        "mask_classes": list(parts.judged.source.mask_classes),
        "splits_are_the_data_sets_own": parts.is_own,
    }
    return Asked(options, parts.judged, parts.training, facts=facts)


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """Random patches of the training images, with their classes."""
    options = asked.options
    assert asked.training is not None
    given = (options.features, options.patches_per_image, options.seed)
    size = subject.config.patch_size
    return {"samples": kept_samples(asked.training, subject.preprocess, size, *given)}


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """The classifier, and how far it and CLS's map agree with the masks."""
    options, classes = asked.options, asked.facts["mask_classes"]
    samples = kept["samples"]
    learned = learn(samples.read("features"), samples.read("classes"), len(classes), options.seed)
    keep = kept_counts(
        *(asked.images, subject.preprocess, subject.config.patch_size, options.features),
        (learned.weights, learned.intercepts),
        len(classes),
    )
    counts = run_after("segment", options, subject, {"counts": keep}, kept.folder)["counts"]
    rows = {"linear": counts.read("linear").astype(np.float64)}
    if "map" in counts:
        rows["map"] = counts.read("map").astype(np.float64)
    rows["nothing"] = _all_background(rows["linear"])
    bootstrap = asked.bootstrap(counts.num_rows)
    numbers = _numbers(rows, classes, bootstrap)
    remarks = [
        f"The linear classifier learned from {samples.num_rows} images; its strength is "
        f"{learned.strength:g}."
    ]
    return Measured(counts.num_rows, numbers, {"strength": learned.strength}, remarks=remarks)


def learn(features: np.ndarray, classes: np.ndarray, num_classes: int, seed: int) -> Learned:
    """The classifier of patches; void ones are left out.

    Args:
      features: (n, s, d).
      classes: (n, s), -1 where void.
      num_classes: Of masks.
      seed: Of the images that the strength is chosen on.

    Raises:
      InputError: If all patches are of one class.
    """
    known = classes >= 0
    if len(np.unique(classes[known])) < 2:
        raise InputError("The patches of the training images are all of one class.")
    images = np.broadcast_to(np.arange(len(classes))[:, None], classes.shape)[known]
    fitted = fit_linear(features[known], classes[known], seed, images, STRENGTHS)
    weights, intercepts = _in_channels(fitted)
    whole = np.zeros((features.shape[-1], num_classes), np.float32)
    offsets = np.full(num_classes, -np.inf, np.float32)
    whole[:, fitted.classes], offsets[fitted.classes] = weights, intercepts
    return Learned(whole, offsets, fitted.strength)


def _in_channels(fitted: Linear) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercepts for features as they are, not in the problem's axes."""
    turned = np.asarray(fitted.solution.weights, np.float64)[:, 0]
    weights = fitted.problem.axes @ turned[:-1]
    return weights, turned[-1] - fitted.problem.mean @ weights


def _all_background(linear: np.ndarray) -> np.ndarray:
    """The counts of calling every patch background."""
    true = linear[..., 1]
    said, both = np.zeros_like(true), np.zeros_like(true)
    said[:, 0], both[:, 0] = true.sum(axis=1), true[:, 0]
    return np.stack([both, true, said], axis=-1)


def _numbers(
    rows: Mapping[str, np.ndarray], classes: Sequence[str], bootstrap: Bootstrap
) -> dict[Key, Number]:
    found: dict[Key, Number] = {}
    for method, counts in rows.items():
        both = lambda means: np.stack([mean_iou(means), accuracy(means)], axis=-1)  # noqa: E731
        iou, right = bootstrap.resampled(counts, both)
        found[SEGMENT.name, method, "mean_iou"] = iou
        found[SEGMENT.name, method, "accuracy"] = right
    for name, iou in zip(classes, bootstrap.resampled(rows["linear"], ious), strict=True):
        if np.isfinite(iou.value):
            found[CLASSES.name, name, "iou"] = iou
    return found


def lead(options: SegmentOptions) -> list[Lead]:
    """Mean IoU of the classifier and of CLS's map."""
    del options
    return [
        Lead((SEGMENT.name, "linear", "mean_iou"), "patches, linear: mean IoU"),
        Lead((SEGMENT.name, "map", "mean_iou"), "map of CLS, no training: mean IoU"),
    ]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Mean IoU by method, and IoU by class."""
    del asked
    bars = [Bars(model.subject.title, model.estimates) for model in models]
    return [
        Drawn(
            "segment_iou",
            "What patches tell of what they show",
            "Intersection over union, pooled over the validation images, with 95 % intervals over "
            "images: mean over classes, and each class by the linear classifier. The map of CLS "
            "tells background from the rest, without training.",
            iou_figure(bars, METHODS),
        )
    ]


ANALYSIS = Analysis(
    name="segment",
    heading="Segmentation",
    text="How well single patches tell what they show: a linear classifier that learned from "
    "masks, and the map of CLS's attention without any training.",
    tables=(SEGMENT, CLASSES),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    ask=ask,
    applies=masked_parts,
    options=SegmentOptions,
    study_preprocess="reconstruction",
    fits=True,
)
