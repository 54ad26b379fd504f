"""How is the similarity of neighbouring patches drawn? Functions from summaries to figures."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.outliers.labels import DEFINITION_LABELS
from regvit_jax.analysis.plotting import is_leftmost, legend_below, new_figure, round_up, styled
from regvit_jax.analysis.plotting.palette import BLACK
from regvit_jax.analysis.plotting.tokens import OUTLIERS, PATCHES
from regvit_jax.analysis.questions.similarity.similarity import DENSITY_AT, GROUPS, Similarities
from regvit_jax.analysis.statistics.bootstrap import Estimate

COLORS = {"normal": PATCHES, "outlier": OUTLIERS}
STYLES = {"normal": "-", "outlier": "--"}
VISIBLE = 0.01
"""Part of the highest density."""


class SimilarityPanel(NamedTuple):
    """One model in a figure."""

    title: str
    num_images: int
    labelled: list[Similarities]
    """By definition of an outlier."""
    estimates: Sequence[Mapping[str, Estimate | None]]
    """Estimates for the same definitions."""


def densities_figure(
    panels: Sequence[SimilarityPanel], definitions: Sequence[str], where: str
) -> Figure:
    """Densities of the cosine with neighbours: definitions in rows, models in columns."""
    with styled():
        figure = new_figure(
            max(6.4, 3.6 * len(panels) + 0.4),
            2.6 * len(definitions) + 0.9,
            "How similar are a patch and its neighbours?",
        )
        grid = figure.subplots(
            len(definitions), len(panels), squeeze=False, sharex=True, sharey=True
        )
        for row, definition in zip(grid, definitions, strict=True):
            for axis, panel in zip(row, panels, strict=True):
                _draw_densities(axis, panel, definition, where)
        for axis in grid[-1]:
            axis.set_xlabel("cosine with a neighbour (patch convolution's output)")
        grid[0, 0].set_xlim(_lowest(panels), 1)
        grid[0, 0].set_ylim(bottom=0)
        legend_below(figure, list(grid.ravel()), columns=2)
    return figure


def _lowest(panels: Sequence[SimilarityPanel]) -> float:
    """Where the axis of the cosine begins: below 0 where a density has a visible part there."""
    densities = np.stack([entry.density for panel in panels for entry in panel.labelled])
    is_seen = (densities > VISIBLE * densities.max()).any(axis=(0, 1))
    return min(0.0, np.floor(10 * DENSITY_AT[is_seen.argmax()]) / 10) if is_seen.any() else 0.0


def _draw_densities(axis: Axes, panel: SimilarityPanel, definition: str, where: str) -> None:
    known = [entry.by.definition for entry in panel.labelled]
    if definition not in known:
        axis.set_title(f"{panel.title}\nno group was found", loc="left", fontsize=8)
        return
    place = known.index(definition)
    labelled, estimates = panel.labelled[place], panel.estimates[place]
    names = {
        "normal": "normal patches",
        "outlier": f"outliers (norm {where}; share as in each panel's title)",
    }
    for values, group in zip(labelled.density, GROUPS, strict=True):
        axis.plot(DENSITY_AT, values, color=COLORS[group], ls=STYLES[group], label=names[group])
        if (median := estimates[f"median_{group}"]) is not None:
            axis.axvline(median.value, color=COLORS[group], ls=":", lw=1)
    score = estimates["auc"]
    text = "no outliers" if score is None else f"AUC {_written(score)}"
    axis.set_title(
        f"{panel.title}, n = {panel.num_images} images\n"
        f"outliers: {DEFINITION_LABELS[definition]}; {text}",
        loc="left",
        fontsize=8,
    )
    if is_leftmost(axis):
        axis.set_ylabel("density")


def medians_figure(panels: Sequence[SimilarityPanel], where: str) -> Figure:
    """Medians of both groups and the AUC for every definition, a row of panels for each model."""
    with styled():
        figure = new_figure(
            7.4, 1.75 * len(panels) + 1.0, "Neighbour similarity by definition of an outlier"
        )
        grid = figure.subplots(
            len(panels), 2, squeeze=False, sharex="col", sharey="row", width_ratios=(1.25, 1)
        )
        for (medians, scores), panel in zip(grid, panels, strict=True):
            _draw_medians(medians, panel)
            _draw_scores(scores, panel)
        limits = _score_limits(panels)
        grid[0, 1].set_xlim(0.5 - limits, 0.5 + limits)
        grid[-1, 0].set_xlabel("median cosine with a neighbour")
        grid[-1, 1].set_xlabel("AUC: an outlier is more like its\nneighbour than a normal patch is")
        figure.supxlabel(f"Outliers by their norm {where}; bars are 95 % intervals.", fontsize=8)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=2)
    return figure


def _draw_medians(axis: Axes, panel: SimilarityPanel) -> None:
    for group, shift in (("normal", -0.16), ("outlier", 0.16)):
        found = [estimates[f"median_{group}"] for estimates in panel.estimates]
        marker = "o" if group == "normal" else "s"
        _draw_points(axis, found, shift, COLORS[group], marker, group)
    axis.set_yticks(
        range(len(panel.labelled)),
        [
            f"{DEFINITION_LABELS[entry.by.definition]} ({100 * entry.by.share.value:.3g} %)"
            for entry in panel.labelled
        ],
    )
    axis.set_ylim(len(panel.labelled) - 0.5, -0.5)
    axis.set_title(f"{panel.title}, n = {panel.num_images} images", loc="left", fontsize=8.5)


def _draw_scores(axis: Axes, panel: SimilarityPanel) -> None:
    found = [estimates["auc"] for estimates in panel.estimates]
    axis.axvline(0.5, color=BLACK, lw=0.8, ls="--")
    _draw_points(axis, found, 0.0, BLACK, "o", "AUC")
    for row, estimate in enumerate(found):
        if estimate is None:
            axis.text(0.5, row, " no outliers", fontsize=7, va="center", color="#555555")


def _draw_points(axis: Axes, found, shift: float, color: str, marker: str, label: str) -> None:
    drawn = [(row + shift, estimate) for row, estimate in enumerate(found) if estimate is not None]
    rows = [row for row, _ in drawn]
    for row, estimate in drawn:
        if estimate.low is not None and estimate.high is not None:
            axis.plot([estimate.low, estimate.high], [row, row], color=color, lw=1.4)
    values = [estimate.value for _, estimate in drawn]
    axis.plot(values, rows, marker, color=color, ms=4, label=label)


def _score_limits(panels: Sequence[SimilarityPanel]) -> float:
    """Half the width of the AUC's axis: the same on both sides of chance."""
    ends = [0.05]
    for panel in panels:
        for estimates in panel.estimates:
            if (score := estimates["auc"]) is not None:
                values = np.array([score.value, score.low or 0.5, score.high or 0.5])
                ends.append(float(np.abs(values - 0.5).max()) * 1.05)
    return min(0.5, round_up(max(ends)))


def _written(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
