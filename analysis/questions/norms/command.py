"""What does `regvit-analyze norms` do? From checkpoints and images to a result folder."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from regvit_jax.analysis.comparing.epochs import Run, training_runs
from regvit_jax.analysis.comparing.pairs import compared_pairs
from regvit_jax.analysis.engine.question import Question, answer
from regvit_jax.analysis.engine.results import (
    FigureFile,
    ResultFolder,
    comparison,
    estimate_columns,
)
from regvit_jax.analysis.engine.subjects import (
    Subject,
    choose_images,
    choose_shown,
    images_json,
    open_subjects,
)
from regvit_jax.analysis.options import NormsOptions
from regvit_jax.analysis.outliers.definitions import is_tautological
from regvit_jax.analysis.outliers.verdict import Verdict
from regvit_jax.analysis.plotting import Figure, save_figure
from regvit_jax.analysis.plotting.epochs import Curves, curves_figure
from regvit_jax.analysis.questions.norms.figures import (
    NormPanel,
    ShownImage,
    by_layer_figure,
    histogram_figure,
    low_tail_figure,
    maps_figure,
    positions_figure,
)
from regvit_jax.analysis.questions.norms.norms import (
    NormStore,
    NormSummary,
    compared_features,
    creator,
    measure,
    paired_differences,
    summarise,
)
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate
from regvit_jax.batches import Batch
from regvit_jax.checkpoint import versions
from regvit_jax.model import DeiT3
from regvit_jax.source import Source

COMPARED = ("mean_plus_3sd", "3_x_median", "absolute_150")
LARGEST = "largest_over_median"


@dataclasses.dataclass(frozen=True)
class Measured:
    """One model's norms, reduced to what is written."""

    subject: Subject
    summary: NormSummary
    features: np.ndarray
    """What models are compared by, (n, f)."""
    shown: dict[int, tuple[np.ndarray, np.ndarray]]
    """Pixels and norm map (in medians) of the shown images, by index."""
    skipped: list[str]


def analyse(options: NormsOptions) -> dict[str, Any]:
    """Measures, writes everything into `options.out`, and returns what results.json says."""
    return answer(question(options))


def question(options: NormsOptions) -> Question:
    """The question with its models and images opened."""
    subjects = open_subjects(options, "similarity")
    source, indices = choose_images(options)
    shown = set(choose_shown(options, source, indices).tolist())
    return Question(
        "norms",
        options,
        subjects + (_twins(subjects) if options.twin else []),
        source,
        indices,
        collect=lambda subject, model, params: NormCollector(subject, model, options, shown),
        write=lambda folder, measured: _write(folder, measured, options, source),
    )


def _write(
    folder: ResultFolder, measured: Sequence[Measured], options: NormsOptions, source: Source
) -> dict[str, Any]:
    """Writes figures and tables; what results.json says."""
    comparisons = _comparisons(measured, options)
    return {
        "data": images_json(
            source, options.split, measured[0].summary.num_images, measured[0].skipped
        ),
        "models": [_model_json(m) for m in measured],
        "comparisons": comparisons,
        "figures": [f.to_json() for f in _write_figures(folder, measured, source)],
        "tables": _write_tables(folder, measured, comparisons),
        "versions": versions(),
    }


def _twins(subjects: Sequence[Subject]) -> list[Subject]:
    """One untrained model for each configuration and preprocessing among the checkpoints."""
    twins: dict[Any, Subject] = {}
    for subject in subjects:
        twins.setdefault((subject.config, subject.preprocess), subject.twin())
    return list(twins.values())


class NormCollector:
    """The norms of one model's tokens, up to its summary."""

    reduce = staticmethod(measure)

    def __init__(
        self, subject: Subject, model: DeiT3, options: NormsOptions, shown: set[int]
    ) -> None:
        self.shown = shown
        self._subject, self._options = subject, options
        self._store = NormStore(
            subject.config.depth + 2, model.layout((1, *subject.preprocess.shape))
        )
        self._rows: dict[int, int] = {}
        self._pixels: dict[int, np.ndarray] = {}

    def __enter__(self) -> "NormCollector":
        self._store.__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._store.__exit__(kind, error, traceback)

    def add(self, batch: Batch, measured: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Takes in one batch."""
        for i, index in enumerate(batch.indices.tolist()):
            if index in self.shown:
                self._rows[index] = self._store.num_images + i
                self._pixels[index] = batch.pixels[i].copy()
        self._store.append(*measured)

    def finish(self, skipped: list[str]) -> Measured:
        """What is written of the model."""
        store, options = self._store, self._options
        summary = summarise(store, Bootstrap(store.num_images, options.bootstrap, options.seed))
        cuts = {name: summary.thresholds["last"][name] for name in COMPARED}
        last = store.patches(-2)
        median = np.median(last)
        maps = {
            index: (self._pixels[index], last[row].reshape(store.layout.grid) / median)
            for index, row in self._rows.items()
        }
        return Measured(self._subject, summary, compared_features(store, cuts), maps, skipped)


def _comparisons(measured: Sequence[Measured], options: NormsOptions) -> list[dict[str, Any]]:
    """The checkpoints' pairs, and every checkpoint against its twin."""
    checkpoints = [m for m in measured if not m.subject.is_twin]
    twins = {m.subject.config: m for m in measured if m.subject.is_twin}
    pairs = compared_pairs(checkpoints)
    pairs += [(twins[m.subject.config], m) for m in checkpoints if m.subject.config in twins]
    names = [*(f"share_above_{name}" for name in COMPARED), LARGEST]
    rows = []
    for first, second in pairs:
        bootstrap = Bootstrap(len(first.features), options.bootstrap, options.seed)
        differences = paired_differences(names, first.features, second.features, bootstrap)
        rows.append(comparison(first.subject.label, second.subject.label, differences))
    return rows


def _model_json(measured: Measured) -> dict[str, Any]:
    summary = measured.summary
    return measured.subject.to_json() | {
        "grid": summary.grid,
        "verdict": {
            "answer": summary.verdict.answer,
            "reason": summary.verdict.reason,
            "group": None if summary.group is None else summary.group._asdict(),
            "strongest_layer": summary.verdict.strongest,
        },
        "verdict_by_layer": [_verdict_json(verdict) for verdict in summary.verdicts],
        "thresholds": summary.thresholds,
        "shares": summary.shares,
        "tests": summary.tests,
        "emergence": summary.emergence,
        "origin": _origin_json(summary),
        "low_tail": summary.low_tail._asdict(),
        "outlier_map": {"cut": summary.drawn_cut, "share_of_images": summary.map},
        "layers": [{"layer": row.layer, "kind": row.kind, **row.values} for row in summary.layers],
    }


def _origin_json(summary: NormSummary) -> dict[str, Any] | None:
    """The sub-layers, and the one that makes most of the large patches."""
    if summary.origin is None:
        return None
    most = creator(summary.origin)
    return {
        "created_by": {"block": most.block, "sublayer": most.sublayer},
        "stages": [stage._asdict() for stage in summary.origin],
    }


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    group = None if verdict.group is None else verdict.group._asdict()
    return {"answer": verdict.answer, "reason": verdict.reason, "group": group}


def _write_tables(folder: ResultFolder, measured, comparisons) -> list[dict[str, str]]:
    layers, outliers = [], []
    for m in measured:
        head = {"model": m.subject.label, "num_registers": m.subject.config.num_registers}
        for row in m.summary.layers:
            values: dict[str, Any] = {}
            for name, estimate in row.values.items():
                values |= estimate_columns(name, estimate)
            layers.append(
                head | {"layer": row.layer, "kind": row.kind, "n": m.summary.num_images} | values
            )
        for tensor, cuts in m.summary.thresholds.items():
            for name, cut in cuts.items():
                share = m.summary.shares[tensor][name]
                outliers.append(
                    head
                    | {"tensor": tensor, "definition": name, "threshold": cut, "n": share.n}
                    | estimate_columns("share", share)
                    | {"patches_per_image": share.value * m.summary.num_patches}
                    | {"by_construction": is_tautological(name)}
                )
    folder.write_table("norms_by_layer.csv", layers)
    folder.write_table("outliers.csv", outliers)
    return [
        {"file": "norms_by_layer.csv", "title": "Norms by layer and kind of token"},
        {"file": "outliers.csv", "title": "Definitions of an outlier side by side"},
        *folder.write_comparisons(comparisons),
    ]


def _write_figures(folder: ResultFolder, measured, source: Source) -> list[FigureFile]:
    panels = [NormPanel(m.subject.title, m.summary, m.subject.is_twin) for m in measured]
    checkpoints = [m for m in measured if not m.subject.is_twin]
    images = [
        ShownImage(
            source.file_names[index].split("/")[-1],
            checkpoints[0].shown[index][0],
            [m.shown[index][1] for m in checkpoints],
        )
        for index in sorted(checkpoints[0].shown)
    ]
    drawn = [
        (
            FigureFile(
                "norms_by_layer",
                "Token norms by layer",
                "Bands: norms of the patches of all images; lines: medians over the images. "
                "Norms are taken before the last LayerNorm.",
            ),
            by_layer_figure(panels),
        ),
        (
            FigureFile(
                "norms_histogram",
                "Patch norms after the last block",
                "All patches of all images, in units of the model's median. A percentile always "
                "cuts off the same share; outliers need a group of their own.",
            ),
            histogram_figure(panels),
        ),
    ]
    if images:
        titles = [m.subject.title for m in checkpoints]
        answers = [m.summary.verdict.answer for m in checkpoints]
        file = FigureFile(
            "norm_maps",
            "Norm maps",
            "Norms of the patches after the last block, all panels on one scale.",
        )
        drawn.append((file, maps_figure(images, titles, answers)))
    file = FigureFile(
        "norm_low_tail",
        "Where small norms sit",
        "Share of images in which the patch at this place has one of the model's 2 % smallest "
        "norms after the last block. Evenly spread, every place would have 2 %.",
    )
    drawn.append((file, low_tail_figure(panels)))
    if runs := training_runs([m.subject for m in measured]):
        drawn.append(_training_figure(measured, runs))
    large = [p for p in panels if not p.is_twin and p.summary.emergence is not None]
    if large:
        file = FigureFile(
            "norm_positions",
            "Where and when large norms appear",
            "Above: share of images whose patch at this place has a large norm. Below: share of "
            "these patches that are as far from the median earlier; half a block is between its "
            "attention and its MLP.",
        )
        drawn.append((file, positions_figure(large)))
    for file, figure in drawn:
        save_figure(figure, folder.partial, file.name)
    return [file for file, _ in drawn]


def _training_figure(
    measured: Sequence[Measured], runs: Sequence[Run]
) -> tuple[FigureFile, Figure]:
    """Outliers over the training of every run."""
    summaries = [m.summary for m in measured]
    panels = [
        Curves(
            "patches above 3 x\nthe median (%)",
            100.0,
            {i: s.shares["last"]["3_x_median"] for i, s in enumerate(summaries)},
        ),
        Curves(
            "patches above\nmean + 3 sd (%)",
            100.0,
            {i: s.shares["last"]["mean_plus_3sd"] for i, s in enumerate(summaries)},
        ),
        Curves(
            "largest norm /\nmedian",
            1.0,
            {i: s.tests["last"]["max_over_median"] for i, s in enumerate(summaries)},
        ),
        Curves(
            "outlier tokens found\n(share of patches, %)",
            100.0,
            {i: _found_share(s) for i, s in enumerate(summaries)},
        ),
    ]
    file = FigureFile(
        "norms_over_training",
        "Outliers over training",
        "Norms after the last block of every checkpoint of a run, with 95 % bands. The lowest "
        "panel is 0 where the verdict is not that there are outlier tokens.",
    )
    note = "patch norms after the last block, before the last LayerNorm"
    return file, curves_figure("Outliers over training", runs, panels, note)


def _found_share(summary: NormSummary) -> Estimate:
    if summary.group is not None:
        return summary.group.share
    return Estimate(0.0, summary.num_images)


def summary_lines(results: dict[str, Any]) -> list[str]:
    """What the command prints at the end: one verdict a model."""
    lines = []
    for model in results["models"]:
        verdict = model["verdict"]
        lines.append(f"{model['title']}: outlier tokens {verdict['answer']}. {verdict['reason']}")
        if verdict["answer"] == "found" and model["origin"] is not None:
            made = model["origin"]["created_by"]
            words = {"attention": "attention", "mlp": "MLP"}[made["sublayer"]]
            lines.append(f"  Most become large in the {words} of block {made['block']} (from 0).")
    for pair in results["comparisons"]:
        difference: Estimate = pair["differences"]["share_above_3_x_median"]
        lines.append(
            f"{pair['from']} -> {pair['to']}: share above 3 x median changes by "
            f"{difference.points(3)}"
        )
    return lines
