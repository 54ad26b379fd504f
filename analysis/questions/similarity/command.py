"""What does `regvit-analyze similarity` do? From checkpoints and images to a result folder."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from regvit_jax.analysis.comparing.pairs import compared_pairs
from regvit_jax.analysis.engine.question import Question, answer
from regvit_jax.analysis.engine.results import (
    FigureFile,
    ResultFolder,
    comparison,
    estimate_columns,
)
from regvit_jax.analysis.engine.subjects import Subject, choose_images, images_json, open_subjects
from regvit_jax.analysis.options import SimilarityOptions
from regvit_jax.analysis.outliers.definitions import is_tautological
from regvit_jax.analysis.plotting import save_figure
from regvit_jax.analysis.questions.similarity.figures import (
    SimilarityPanel,
    densities_figure,
    medians_figure,
)
from regvit_jax.analysis.questions.similarity.similarity import (
    TENSORS,
    Labelled,
    Neighbours,
    SimilarityStore,
    SimilaritySummary,
    neighbour_cosines,
    summarise_similarity,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.batches import Batch
from regvit_jax.checkpoint import versions
from regvit_jax.model import DeiT3
from regvit_jax.source import Source

NUMBERS = {
    "median_normal": "median cosine of a normal patch with a neighbour",
    "median_outlier": "median cosine of an outlier with a neighbour",
    "median_difference": "outliers' median minus normal patches'",
    "mean_normal": "mean cosine of a normal patch with a neighbour",
    "mean_outlier": "mean cosine of an outlier with a neighbour",
    "mean_difference": "outliers' mean minus normal patches'",
    "auc": "how often an outlier is more like a neighbour than a normal patch is (0.5: by chance)",
}
DRAWN = ("quantile_98", "quantile_99_5")
COMPARED = ("auc", "median_difference", "median_outlier", "median_normal")


@dataclasses.dataclass(frozen=True)
class Similar:
    """One model's neighbours, reduced to what is written."""

    subject: Subject
    summary: SimilaritySummary
    skipped: list[str]


def analyse(options: SimilarityOptions) -> dict[str, Any]:
    """Measures, writes everything into `options.out`, and returns what results.json says."""
    return answer(question(options))


def question(options: SimilarityOptions) -> Question:
    """The question with its models and images opened."""
    source, indices = choose_images(options)
    return Question(
        "similarity",
        options,
        open_subjects(options, "similarity"),
        source,
        indices,
        collect=lambda subject, model, params: _Collector(subject, model, options),
        write=lambda folder, models: write(folder, models, options, source),
    )


def labels_of(options: SimilarityOptions) -> str:
    """The tensor whose norms tell outliers from normal patches."""
    return "normed" if options.protocol == "study" else "last"


def write(
    folder: ResultFolder, models: Sequence[Similar], options: SimilarityOptions, source: Source
) -> dict[str, Any]:
    """Writes figures and tables; what results.json says."""
    comparisons = _comparisons(models, options)
    return {
        "data": images_json(source, options.split, models[0].summary.num_images, models[0].skipped),
        "labels": labels_of(options),
        "numbers": NUMBERS,
        "models": [_model_json(model, options) for model in models],
        "comparisons": comparisons,
        "figures": [file.to_json() for file in _write_figures(folder, models, options)],
        "tables": _write_tables(folder, models, comparisons, options),
        "versions": versions(),
    }


class _Collector:
    """The neighbours of one model's patches, up to its summary."""

    reduce = staticmethod(neighbour_cosines)

    def __init__(self, subject: Subject, model: DeiT3, options: SimilarityOptions) -> None:
        self.shown = set[int]()
        self._subject, self._options = subject, options
        self._pairs = SimilarityStore(model.layout((1, *subject.preprocess.shape)))

    def __enter__(self) -> "_Collector":
        self._pairs.__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._pairs.__exit__(kind, error, traceback)

    def add(self, batch: Batch, reduced: Neighbours) -> None:
        """Takes in one batch; no pixels are kept."""
        del batch
        self._pairs.append(reduced)

    def finish(self, skipped: list[str]) -> Similar:
        """What is written of the model."""
        bootstrap = Bootstrap(self._pairs.num_images, self._options.bootstrap, self._options.seed)
        return Similar(self._subject, summarise_similarity(self._pairs, bootstrap), skipped)


def _bootstrap(model: Similar, options: SimilarityOptions) -> Bootstrap:
    return Bootstrap(model.summary.num_images, options.bootstrap, options.seed)


def _estimates(labelled: Labelled, bootstrap: Bootstrap) -> dict[str, Estimate | None]:
    """All numbers; None where there is no outlier, or nothing but outliers."""
    found = {k: bootstrap.estimate(v.value, v.samples) for k, v in labelled.numbers.items()}
    return {name: found.get(name) for name in NUMBERS}


def _model_json(model: Similar, options: SimilarityOptions) -> dict[str, Any]:
    bootstrap = _bootstrap(model, options)
    by_tensor: dict[str, Any] = {tensor: {} for tensor in TENSORS}
    for labelled in model.summary.labelled:
        by_tensor[labelled.tensor][labelled.definition] = {
            "threshold": labelled.threshold,
            "share": labelled.share,
            "by_construction": is_tautological(labelled.definition),
            "num_normal_patches": labelled.num_patches[0],
            "num_outlier_patches": labelled.num_patches[1],
            "num_normal_samples": labelled.num_samples[0],
            "num_outlier_samples": labelled.num_samples[1],
            "note": _note(labelled),
            **_estimates(labelled, bootstrap),
        }
    return model.subject.to_json() | {
        "grid": model.summary.grid,
        "labels": labels_of(options),
        "similarity": by_tensor,
    }


def _note(labelled: Labelled) -> str | None:
    """What a reader must know about empty groups."""
    if not labelled.num_patches[1]:
        return "No patch is an outlier by this definition."
    if not labelled.num_patches[0]:
        return "Every patch is an outlier by this definition."
    return None


def _comparisons(models: Sequence[Similar], options: SimilarityOptions) -> list[dict[str, Any]]:
    """By every definition that both of a pair can meet."""
    tensor, rows = labels_of(options), []
    for model, other in compared_pairs(models):
        bootstrap = _bootstrap(other, options)
        differences = {}
        for first in model.summary.labelled:
            if first.tensor != tensor:
                continue
            second = other.summary.of(tensor, first.definition)
            for name in COMPARED:
                if name in first.numbers and name in second.numbers:
                    difference = bootstrap.difference(first.numbers[name], second.numbers[name])
                    differences[f"{first.definition}_{name}"] = difference
        rows.append(comparison(model.subject.label, other.subject.label, differences))
    return rows


def _write_tables(folder: ResultFolder, models, comparisons, options) -> list[dict[str, str]]:
    rows = []
    for model in models:
        bootstrap = _bootstrap(model, options)
        for labelled in model.summary.labelled:
            row: dict[str, Any] = {
                "model": model.subject.label,
                "num_registers": model.subject.config.num_registers,
                "norm_after": "last block" if labelled.tensor == "last" else "last LayerNorm",
                "definition": labelled.definition,
                "threshold": labelled.threshold,
                "n": model.summary.num_images,
                "outlier_patches": labelled.num_patches[1],
                "outlier_samples": labelled.num_samples[1],
            }
            for name, estimate in _estimates(labelled, bootstrap).items():
                missing = {name: None, f"{name}_low": None, f"{name}_high": None}
                row |= estimate_columns(name, estimate) if estimate else missing
            rows.append(row)
    folder.write_table("similarity.csv", rows)
    return [
        {"file": "similarity.csv", "title": "Cosine of patches with their neighbours"},
        *folder.write_comparisons(comparisons),
    ]


def _write_figures(folder: ResultFolder, models, options) -> list[FigureFile]:
    tensor = labels_of(options)
    where = "after the last LayerNorm" if tensor == "normed" else "after the last block"
    panels = []
    for model in models:
        bootstrap = _bootstrap(model, options)
        entries = [x for x in model.summary.labelled if x.tensor == tensor]
        estimates = [_estimates(x, bootstrap) for x in entries]
        panels.append(
            SimilarityPanel(model.subject.title, model.summary.num_images, entries, estimates)
        )
    files = [
        FigureFile(
            "similarity_densities",
            "How alike are a patch and its neighbours?",
            "Kernel densities (Gaussian, Scott's bandwidth) of the cosine between the patch "
            "convolution's outputs of a patch and each of its up to four neighbours, before "
            f"positions. Outliers are told by their norm {where}. Dotted lines are medians.",
        ),
        FigureFile(
            "similarity_medians",
            "Neighbour similarity by definition of an outlier",
            "Medians of both groups, and how often an outlier is more like its neighbour than a "
            f"normal patch (AUC; 0.5 is chance), with 95 % intervals. Norms {where}.",
        ),
    ]
    save_figure(densities_figure(panels, DRAWN, where), folder.partial, files[0].name)
    save_figure(medians_figure(panels, where), folder.partial, files[1].name)
    return files


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: the 98 % definition in a line a model."""
    lines = []
    for model in results["models"]:
        entry = model["similarity"][results["labels"]]["quantile_98"]
        if entry["auc"] is None:
            lines.append(f"{model['title']}: {entry['note']}")
            continue
        lines.append(
            f"{model['title']}: median cosine with neighbours {entry['median_outlier'].value:.3f} "
            f"for the 2 % of largest norm, {entry['median_normal'].value:.3f} for the others; "
            f"AUC {entry['auc'].text(3)}"
        )
    return lines
