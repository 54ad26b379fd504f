"""What does `regvit-analyze probe` do? From checkpoints and labelled images to a result folder."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from regvit_jax.analysis.comparing.pairs import compared_pairs
from regvit_jax.analysis.engine.extract import extract
from regvit_jax.analysis.engine.parts import Parts, open_labelled_parts
from regvit_jax.analysis.engine.results import (
    FigureFile,
    ResultFolder,
    comparison,
    estimate_columns,
)
from regvit_jax.analysis.engine.subjects import Subject, images_json, open_batches, open_subjects
from regvit_jax.analysis.options import ProbeOptions
from regvit_jax.analysis.plotting import save_figure
from regvit_jax.analysis.questions.probe.figures import (
    ProbePanel,
    accuracy_figure,
    strengths_figure,
)
from regvit_jax.analysis.questions.probe.probe import (
    KindResult,
    Outliers,
    ProbePlan,
    accuracy,
    difference,
    find_outliers,
    probe_kinds,
)
from regvit_jax.analysis.questions.probe.tokens import (
    NORMAL,
    OUTLIER,
    TokenStore,
    probed_tokens,
)
from regvit_jax.analysis.statistics.bootstrap import Estimate
from regvit_jax.checkpoint import versions
from regvit_jax.console import progress
from regvit_jax.errors import InputError
from regvit_jax.source import Source

STRENGTH_EXPONENTS = (-6.0, 5.0)
STUDY_PREPROCESS = "reconstruction"
"""The study published no notebook of this probe; this is how its others read Imagenette."""


@dataclasses.dataclass(frozen=True)
class Probed:
    """One model's probes."""

    subject: Subject
    outliers: Outliers
    kinds: list[KindResult]
    val_indices: Int[np.ndarray, " n"]
    num_train: int
    majority: float
    """Accuracy of always answering with the commonest training class."""
    skipped: list[str]

    def kind(self, name: str) -> KindResult | None:
        """One kind of token, if the model has it."""
        return next((kind for kind in self.kinds if kind.kind == name), None)


def analyse(options: ProbeOptions) -> dict[str, Any]:
    """Probes, writes everything into `options.out`, and returns what results.json says."""
    subjects = open_subjects(options, STUDY_PREPROCESS)
    parts = open_labelled_parts(options)
    folder = ResultFolder(options.out, "probe", options.configuration(), options.overwrite)
    with folder:
        probed = [_probe(subject, options, parts) for subject in subjects]
        return write(folder, probed, options, parts)


def _probe(subject: Subject, options: ProbeOptions, parts: Parts) -> Probed:
    """Both parts once through the network, then every probe."""
    with _stores(subject, options, parts) as (train, val, skipped):
        _check_classes(train, parts.training.source)
        outliers = find_outliers(train, val, options.outlier, options.bootstrap, options.seed)
        kinds = list(
            progress(
                probe_kinds(
                    train, val, outliers.cut, len(parts.training.source.class_names), plan(options)
                ),
                len(train.kinds),
                f"{subject.label}: kinds of token",
            )
        )
        commonest = np.bincount(train.labels).argmax()
        return Probed(
            subject,
            outliers,
            kinds,
            val.indices,
            train.num_images,
            float((val.labels == commonest).mean()),
            skipped,
        )


@contextlib.contextmanager
def _stores(
    subject: Subject, options: ProbeOptions, parts: Parts
) -> Iterator[tuple[TokenStore, TokenStore, list[str]]]:
    """The tokens of the training and of the validation images, and what could not be read."""
    model, params = subject.load(options.seed)
    size = subject.preprocess
    layout = model.layout((size.height, size.width, 3))
    dim, reduce = subject.config.embed_dim, probed_tokens(options.features)
    skipped: list[str] = []
    with contextlib.ExitStack() as stack:
        stores = []
        for purpose, (source, indices) in (
            ("training", parts.training),
            ("validation", parts.judged),
        ):
            store = stack.enter_context(TokenStore(layout, dim, options.draws, options.seed))
            batches = open_batches(options, subject, source, indices)
            label = f"{subject.label}: {purpose} images"
            for batch, reduced in extract(model, params, batches, reduce, layers=1, label=label):
                store.add(batch, reduced)
            if not store.num_images:
                raise InputError(f"None of the {len(indices)} images of {source.name} can be read.")
            skipped += batches.skipped
            stores.append(store)
        yield stores[0], stores[1], skipped


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


def write(
    folder: ResultFolder, probed: Sequence[Probed], options: ProbeOptions, parts: Parts
) -> dict[str, Any]:
    """Writes tables, figures and results.json; returns what the last one says."""
    results = {
        "data": images_json(
            parts.judged.source, "val", len(probed[0].val_indices), probed[0].skipped
        )
        | {
            "num_train": probed[0].num_train,
            "num_classes": len(parts.training.source.class_names),
            "splits_are_the_data_sets_own": parts.is_own,
        },
        "models": [_model_json(p, options) for p in probed],
        "comparisons": _comparisons(probed, options),
        "figures": [f.to_json() for f in _write_figures(folder, probed, options)],
        "versions": versions(),
    }
    results["tables"] = _write_tables(folder, probed, results, options)
    folder.finish(results)
    return results


def _model_json(probed: Probed, options: ProbeOptions) -> dict[str, Any]:
    outliers = probed.outliers
    return probed.subject.to_json() | {
        "probed": "after the last LayerNorm"
        if options.features == "normed"
        else "before the last LayerNorm",
        "accuracy_of_the_commonest_class": probed.majority,
        "outliers": {
            "definition": outliers.definition,
            "cut": outliers.cut,
            "share_of_patches": outliers.share_of_patches,
            "share_of_images": outliers.share_of_images,
            "share_of_images_with_more_than_are_kept": outliers.share_beyond_kept,
            "answer": outliers.verdict.answer,
            "reason": outliers.verdict.reason,
        },
        "kinds": [_kind_json(kind, options) for kind in probed.kinds],
        "differences_between_kinds": _between_kinds(probed, options),
    }


def _kind_json(result: KindResult, options: ProbeOptions) -> dict[str, Any]:
    head = {"kind": result.kind, "num_train": result.num_train, "reason": result.reason}
    if result.reason:
        return head
    entry = head | {"logistic": _fits_json(result, options, neighbours=False)}
    if result.neighbours:
        entry["neighbours"] = _fits_json(result, options, neighbours=True)
    return entry


def _fits_json(result: KindResult, options: ProbeOptions, neighbours: bool) -> dict[str, Any]:
    fits = result.neighbours if neighbours else result.logistic
    by_draw = [float(fit.is_right[result.used].mean()) for fit in fits]
    entry: dict[str, Any] = {
        "accuracy": accuracy(result, options.bootstrap, options.seed, neighbours),
        "accuracy_by_draw": by_draw,
        "sd_over_draws": float(np.std(by_draw, ddof=1)) if len(by_draw) > 1 else None,
        "chosen": [fit.choice for fit in fits],
        "tried": list(plan(options).neighbours if neighbours else plan(options).strengths),
        "held_out_accuracy": [fit.tried for fit in fits],
    }
    if neighbours:
        right = [fit.by_choice[result.used] for fit in fits if fit.by_choice is not None]
        entry["accuracy_by_number"] = np.mean(right, axis=(0, 1), dtype=np.float64)
    return entry


def _between_kinds(probed: Probed, options: ProbeOptions) -> list[dict[str, Any]]:
    """Each kind against CLS (or the mean patch of a model without), and outliers against normal
    patches: on the images that have both.
    """
    kinds = [kind.kind for kind in probed.kinds]
    pairs = [(kinds[0], kind) for kind in kinds[1:]]
    pairs += [(NORMAL, OUTLIER)] if (NORMAL, OUTLIER) not in pairs else []
    rows = []
    for first, second in pairs:
        found = _difference(probed, first, probed, second, options)
        rows.append(comparison(first, second, found))
    return [row for row in rows if row["differences"]]


def _difference(
    one: Probed, first: str, other: Probed, second: str, options: ProbeOptions
) -> dict[str, Estimate]:
    """Logistic regression's and the neighbours' differences, where both kinds were probed."""
    before, after = one.kind(first), other.kind(second)
    if before is None or after is None:
        return {}
    found = {}
    for name, neighbours in (("logistic", False), ("neighbours", True)):
        if neighbours and not options.neighbours:
            continue
        estimate = difference(before, after, options.bootstrap, options.seed, neighbours)
        if estimate is not None:
            found[name] = estimate
    return found


def _comparisons(probed: Sequence[Probed], options: ProbeOptions) -> list[dict[str, Any]]:
    """Kind by kind."""
    rows = []
    for first, other in compared_pairs(probed):
        assert np.array_equal(first.val_indices, other.val_indices)
        differences = {
            f"accuracy_{method}_{kind.kind}": estimate
            for kind in first.kinds
            for method, estimate in _difference(first, kind.kind, other, kind.kind, options).items()
        }
        rows.append(comparison(first.subject.label, other.subject.label, differences))
    return rows


def _write_tables(
    folder: ResultFolder, probed: Sequence[Probed], results: dict[str, Any], options: ProbeOptions
) -> list[dict[str, str]]:
    rows = []
    for p, model in zip(probed, results["models"], strict=True):
        for entry in model["kinds"]:
            for method in ("logistic", "neighbours"):
                if method in entry:
                    rows.append(_row(p, entry, entry[method], method))
    folder.write_table("probe.csv", rows)
    tables = [{"file": "probe.csv", "title": "Accuracy by kind of token"}]
    pairs = [(row, "between models", "") for row in results["comparisons"]]
    for model in results["models"]:
        pairs += [
            (row, "between kinds", model["label"]) for row in model["differences_between_kinds"]
        ]
    rows = [
        {"what": what, "model": model, "from": row["from"], "to": row["to"], "quantity": name}
        | {"n": estimate.n}
        | estimate_columns("difference", estimate)
        for row, what, model in pairs
        for name, estimate in row["differences"].items()
    ]
    if rows:
        folder.write_table("comparisons.csv", rows)
        tables.append({"file": "comparisons.csv", "title": "Paired differences"})
    return tables


def _row(probed: Probed, entry: dict[str, Any], fits: dict[str, Any], method: str):
    return {
        "model": probed.subject.label,
        "num_registers": probed.subject.config.num_registers,
        "kind": entry["kind"],
        "method": method,
        "num_train": entry["num_train"],
        "n": fits["accuracy"].n,
        **estimate_columns("accuracy", fits["accuracy"]),
        "draws": len(fits["chosen"]),
        "sd_over_draws": fits["sd_over_draws"],
        "chosen": " ".join(f"{value:.4g}" for value in fits["chosen"]),
    }


def _write_figures(
    folder: ResultFolder, probed: Sequence[Probed], options: ProbeOptions
) -> list[FigureFile]:
    panels = [_panel(p, options) for p in probed]
    where = "after" if options.features == "normed" else "before"
    files = [
        FigureFile(
            "probe_accuracy",
            "What each kind of token knows of the class",
            f"Accuracy of classifiers on one frozen token of each image, taken {where} the last "
            "LayerNorm. Bars: 95 % intervals over the validation images; ticks: single draws "
            "of random patches. Dotted: always answering with the commonest training class.",
        ),
        FigureFile(
            "probe_strengths",
            "Accuracy against the strength C",
            "On the held-out tenth of the training images; marked: the strength that was chosen. "
            "Mean over the draws of random patches.",
        ),
    ]
    figures = [accuracy_figure(panels), strengths_figure(panels, plan(options).strengths)]
    for file, figure in zip(files, figures, strict=True):
        save_figure(figure, folder.partial, file.name)
    return files


def _panel(probed: Probed, options: ProbeOptions) -> ProbePanel:
    fitted = [kind for kind in probed.kinds if not kind.reason]
    estimates = {}
    for name, neighbours in (("logistic", False), ("neighbours", True)):
        if neighbours and not options.neighbours:
            continue
        estimates[name] = {
            kind.kind: accuracy(kind, options.bootstrap, options.seed, neighbours)
            for kind in fitted
        }
    return ProbePanel(probed.subject.title, fitted, estimates, probed.majority)


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: a line a model and kind, then the differences."""
    lines = []
    for model in results["models"]:
        lines.append(f"{model['title']}: accuracy of one token, {model['probed']}")
        for entry in model["kinds"]:
            if entry["reason"]:
                lines.append(f"  {entry['kind']}: not probed. {entry['reason']}")
                continue
            fits = entry["logistic"]
            text = f"  {entry['kind']}: {fits['accuracy'].percent()}"
            if fits["sd_over_draws"] is not None:
                text += f", sd over draws {100 * fits['sd_over_draws']:.1f}"
            if "neighbours" in entry:
                text += f"; nearest neighbours {entry['neighbours']['accuracy'].percent()}"
            lines.append(f"{text}; n = {fits['accuracy'].n}")
        shares = model["outliers"]["share_of_images"]
        lines.append(
            f"  images with an outlier patch ({model['outliers']['definition']}): "
            f"{100 * shares['train'].value:.1f} % of training, "
            f"{100 * shares['val'].value:.1f} % of validation"
        )
    return lines
