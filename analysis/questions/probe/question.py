"""What does each kind of token know of the class? What is kept, measured and drawn for it.

Each model's entry in the results has, beside its numbers, `outliers` (what counted as one, and how
many images have one) and `fits`: by kind and method, what was tried and chosen, draw by draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

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
from regvit_jax.analysis.engine.parts import open_labelled_parts
from regvit_jax.analysis.engine.question import Keep, Kept
from regvit_jax.analysis.engine.subjects import Subject
from regvit_jax.analysis.outliers.labels import label_norms
from regvit_jax.analysis.outliers.streams import NormColumns
from regvit_jax.analysis.progress import track
from regvit_jax.analysis.questions.probe.figures import (
    ProbePanel,
    accuracy_figure,
    strengths_figure,
)
from regvit_jax.analysis.questions.probe.kept_kinds import load_kind, save_kind
from regvit_jax.analysis.questions.probe.options import ProbeOptions
from regvit_jax.analysis.questions.probe.probe import (
    KindResult,
    Outliers,
    ProbePlan,
    accuracy,
    difference,
    find_outliers,
    probe_kind,
)
from regvit_jax.analysis.questions.probe.tokens import (
    BESIDE,
    EARLY,
    NEIGHBOUR,
    NORMAL,
    OUTLIER,
    TokenStore,
    probe_tokens,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.errors import InputError
from regvit_jax.source import Source

CONTROLS = (BESIDE, NEIGHBOUR, EARLY, NORMAL)
STRENGTH_EXPONENTS = (-6.0, 5.0)
METHODS = ("logistic", "neighbours")
WHERE = {"normed": "after", "last": "before"}
PROBE = Table(
    "probe",
    "Accuracy by kind of token",
    ("kind", "method"),
    {
        "accuracy": Quantity("accuracy", is_share=True, is_compared=True),
        "sd_over_draws": Quantity("standard deviation over the draws"),
        "num_train": Quantity("training images"),
        "num_draws": Quantity("draws of random patches"),
    },
    on_page=True,
)
BETWEEN = Table(
    "between_kinds",
    "Differences between kinds of token, on the images that have both",
    ("from", "to", "method"),
    {"difference": Quantity("accuracy, second minus first", is_share=True)},
)
OUTLIERS = Table(
    "probe_outliers",
    "Outliers among the patches that were probed",
    (),
    {
        "cut": Quantity("norm above which a patch is an outlier"),
        "share_of_patches": Quantity("patches that are outliers", is_share=True),
        "training_images": Quantity("training images with an outlier", is_share=True),
        "validation_images": Quantity("validation images with an outlier", is_share=True),
        "beyond_kept": Quantity("images with more outliers than are kept", is_share=True),
        "majority": Quantity("accuracy of the commonest training class", is_share=True),
    },
)
LED = {
    ("logistic", "cls"): "class accuracy from CLS",
    ("neighbours", "cls"): "class accuracy from CLS's nearest neighbours",
    ("logistic", "mean_patch"): "class accuracy from the mean patch",
    ("logistic", "normal_patch"): "class accuracy from a normal patch",
    ("logistic", "outlier_patch"): "class accuracy from an outlier patch",
    ("logistic", BESIDE): "class accuracy from a normal patch of the same images",
    ("logistic", NEIGHBOUR): "class accuracy from an outlier's neighbour",
    ("logistic", EARLY): "class accuracy from the outlier's patch after block 0",
    ("logistic", "mean_register"): "class accuracy from the mean register",
    ("logistic", "cls_and_mean_register"): "class accuracy from CLS + mean register",
}


class Probed(NamedTuple):
    """One model's probes."""

    kinds: dict[str, KindResult]
    majority: float
    """Accuracy of always answering with the commonest training class."""


def ask(options: ProbeOptions, checkpoints: Sequence[Subject]) -> Asked:
    """The images to learn from and those to judge on, of two or more classes."""
    del checkpoints
    parts = open_labelled_parts(options)
    facts = {
        "num_train": len(parts.training.indices),
        "num_classes": len(parts.training.source.class_names),
        "splits_are_the_data_sets_own": parts.is_own,
    }
    return Asked(options, parts.judged, parts.training, facts=facts)


def keeps(subject: Subject, asked: Asked) -> dict[str, Keep]:
    """For both parts of the data: tokens that a probe may need, and the norms of the patches."""
    options, found = asked.options, {}
    assert asked.training is not None
    for name, images in (("train", asked.training), ("val", asked.images)):
        given = (options.features, options.draws, options.seed)
        patch_size = subject.config.patch_size
        found[name] = probe_tokens(images, subject.preprocess, patch_size, *given)
        found[f"{name} norms"] = label_norms(subject, images, options)
    return found


def measure(subject: Subject, kept: Kept, asked: Asked) -> Measured:
    """Every probe of one model."""
    options = asked.options
    norms = [NormColumns.of(subject, kept[f"{name} norms"]) for name in ("train", "val")]
    outliers, layout = find_outliers(norms[0], norms[1], options), norms[0].layout
    given = (layout.num_registers, options.seed, layout.has_cls)
    train = TokenStore(kept["train"], *outliers.train, *given)
    val = TokenStore(kept["val"], *outliers.val, *given)
    assert asked.training is not None
    source = asked.training.source
    _check_classes(train, source)
    kinds = {}
    for kind in track(train.kinds, len(train.kinds), f"{subject.label}, kinds of token"):
        path = kept.folder / f"{kind}.npz"
        result = load_kind(path, kind)
        if result is None:
            result = probe_kind(train, val, kind, len(source.class_names), plan(options))
            if not result.reason:
                save_kind(path, result)
        kinds[kind] = result
    majority = float((val.labels == np.bincount(train.labels).argmax()).mean())
    probed = Probed(kinds, majority)
    numbers = dict(_kind_numbers(probed, asked)) | dict(_between_numbers(probed, asked))
    return Measured(
        val.num_images,
        numbers | _outlier_numbers(outliers, majority, val, options),
        _facts(probed, outliers, options),
        remarks=[
            *(f"{k.kind}: not probed. {k.reason}" for k in kinds.values() if k.reason),
            f"Tokens are taken {WHERE[options.features]} the last LayerNorm.",
            outliers.labels.remark,
            f"Images with an outlier patch ({outliers.definition}): "
            + " and ".join(
                f"{outliers.share_of_images(part, options.bootstrap, options.seed).percent()} "
                f"of {words}"
                for part, words in ((outliers.train, "training"), (outliers.val, "validation"))
            )
            + ".",
        ],
        drawn=probed,
    )


def _check_classes(train: TokenStore, source: Source) -> None:
    counts = np.bincount(train.labels, minlength=len(source.class_names))
    if (counts == 0).any():
        missing = [source.class_names[i] for i in np.flatnonzero(counts == 0)]
        raise InputError(
            f"{len(missing)} classes have no image among the {train.num_images} training images: "
            f"{', '.join(missing[:5])}. Raise --num-train-images, or leave these classes out of "
            "the data."
        )


def plan(options: ProbeOptions) -> ProbePlan:
    """How the options want classifiers fitted."""
    exponents = np.linspace(*STRENGTH_EXPONENTS, options.num_strengths)
    return ProbePlan(
        strengths=tuple((10.0**exponents).tolist()),
        neighbours=tuple(sorted(set(options.neighbours))),
        draws=options.draws,
        without_outlier=options.without_outlier,
        seed=options.seed,
    )


def _kind_numbers(probed: Probed, asked: Asked) -> Iterator[tuple[Key, Number]]:
    """Accuracy of every kind and method."""
    options = asked.options
    for kind, result in probed.kinds.items():
        for method in METHODS:
            fits = getattr(result, method)
            if result.reason or not fits:
                continue
            estimate = accuracy(result, options.bootstrap, options.seed, method == "neighbours")
            yield (PROBE.name, kind, method, "accuracy"), estimate
            yield (PROBE.name, kind, method, "num_train"), Estimate(result.num_train, estimate.n)
            yield (PROBE.name, kind, method, "num_draws"), Estimate(len(fits), estimate.n)
            if len(fits) > 1:
                sd = float(np.std(_by_draw(result, method), ddof=1))
                yield (PROBE.name, kind, method, "sd_over_draws"), Estimate(sd, estimate.n)


def _by_draw(result: KindResult, method: str) -> list[float]:
    return [float(fit.is_right[result.used].mean()) for fit in getattr(result, method)]


def _between_numbers(probed: Probed, asked: Asked) -> Iterator[tuple[Key, Number]]:
    """Each kind against CLS (or the mean patch of a model without), and outliers against their
    controls: on the images that have both.
    """
    kinds = list(probed.kinds)
    pairs = [(kinds[0], kind) for kind in kinds[1:]]
    pairs += [(control, OUTLIER) for control in CONTROLS if (control, OUTLIER) not in pairs]
    for first, second in pairs:
        found = _difference(probed.kinds.get(first), probed.kinds.get(second), asked)
        for method, estimate in found.items():
            yield (BETWEEN.name, first, second, method, "difference"), estimate


def _difference(
    first: KindResult | None, second: KindResult | None, asked: Asked
) -> dict[str, Estimate]:
    """Second minus first by method, where both kinds were probed."""
    if first is None or second is None:
        return {}
    options, found = asked.options, {}
    for method in METHODS if options.neighbours else METHODS[:1]:
        given = (options.bootstrap, options.seed, method == "neighbours")
        if (estimate := difference(first, second, *given)) is not None:
            found[method] = estimate
    return found


def _outlier_numbers(
    outliers: Outliers, majority: float, val: TokenStore, options: ProbeOptions
) -> dict[Key, Number]:
    given, num_images = (options.bootstrap, options.seed), val.num_images
    numbers = {
        "share_of_patches": outliers.share_of_patches,
        "training_images": outliers.share_of_images(outliers.train, *given),
        "validation_images": outliers.share_of_images(outliers.val, *given),
        "beyond_kept": Estimate(val.share_beyond_kept, num_images),
        "majority": Estimate(majority, num_images),
    }
    if np.isfinite(outliers.cut):
        numbers["cut"] = Estimate(outliers.cut, num_images)
    return {(OUTLIERS.name, name): number for name, number in numbers.items()}


def _facts(probed: Probed, outliers: Outliers, options: ProbeOptions) -> dict[str, Any]:
    fits = {
        kind: {
            method: _fits_json(result, options, method)
            for method in METHODS
            if getattr(result, method)
        }
        for kind, result in probed.kinds.items()
        if not result.reason
    }
    return {
        "probed": f"{WHERE[options.features]} the last LayerNorm",
        **outliers.labels.facts,
        "definition": outliers.definition,
        "fits": fits,
    }


def _fits_json(result: KindResult, options: ProbeOptions, method: str) -> dict[str, Any]:
    """What was tried and chosen, draw by draw."""
    fits = getattr(result, method)
    entry: dict[str, Any] = {
        "accuracy_by_draw": _by_draw(result, method),
        "chosen": [fit.choice for fit in fits],
        "tried": getattr(plan(options), "strengths" if method == "logistic" else "neighbours"),
        "held_out_accuracy": [fit.tried for fit in fits],
    }
    right = [fit.by_choice[result.used] for fit in fits if fit.by_choice is not None]
    if right:
        entry["accuracy_by_number"] = np.mean(right, axis=(0, 1), dtype=np.float64)
    return entry


def differences(
    analysis: Analysis, first: Model, other: Model, asked: Asked
) -> Mapping[Key, Estimate]:
    """Kind by kind, on the images that have such a token in both models."""
    del analysis
    before, after = first.measured.drawn.kinds, other.measured.drawn.kinds
    return {
        (PROBE.name, kind, method, "accuracy"): estimate
        for kind in before
        for method, estimate in _difference(before[kind], after.get(kind), asked).items()
    }


def lead(options: ProbeOptions) -> list[Lead]:
    """Accuracies of the kinds that the literature compares."""
    del options
    return [
        Lead((PROBE.name, kind, method, "accuracy"), title) for (method, kind), title in LED.items()
    ]


def figures(models: Sequence[Model], asked: Asked) -> list[Drawn]:
    """Accuracy by kind of token, and against the strength."""
    panels = [_panel(model) for model in models]
    return [
        Drawn(
            "probe_accuracy",
            "What each kind of token knows of the class",
            "Accuracy of classifiers on one frozen token of each image, taken "
            f"{WHERE[asked.options.features]} the last LayerNorm. Bars: 95 % intervals over the "
            "validation images; ticks: single draws of random patches. Dotted: always answering "
            "with the commonest training class.",
            accuracy_figure(panels),
        ),
        Drawn(
            "probe_strengths",
            "Accuracy against the strength C",
            "On the held-out tenth of the training images; marked: the strength that was chosen. "
            "Mean over the draws of random patches.",
            strengths_figure(panels, plan(asked.options).strengths),
        ),
    ]


def _panel(model: Model) -> ProbePanel:
    probed: Probed = model.measured.drawn
    estimates: dict[str, dict[str, Estimate]] = {}
    for key, estimate in model.estimates.items():
        if key[0] == PROBE.name and key[-1] == "accuracy":
            estimates.setdefault(key[2], {})[key[1]] = estimate
    fitted = [kind for kind in probed.kinds.values() if not kind.reason]
    return ProbePanel(model.subject.title, fitted, estimates, probed.majority)


ANALYSIS = Analysis(
    name="probe",
    heading="Probes of the class",
    text="What each kind of token knows of the image's class: logistic regression, and the nearest "
    "neighbours, on frozen tokens.",
    tables=(PROBE, BETWEEN, OUTLIERS),
    keeps=keeps,
    measure=measure,
    lead=lead,
    figures=figures,
    ask=ask,
    applies=open_labelled_parts,
    differences=differences,
    options=ProbeOptions,
    # The study published no notebook of this probe; this is how its others read Imagenette.
    study_preprocess="reconstruction",
    fits=True,
)
