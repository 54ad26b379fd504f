"""How are probes drawn? Functions from results to figures; accuracies in per cent."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import (
    LINE_STYLES,
    is_leftmost,
    legend_below,
    new_figure,
    series_name,
    styled,
)
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.questions.probe.probe import KindResult
from regvit_jax.analysis.statistics.bootstrap import Estimate

METHODS = {"logistic": "logistic regression", "neighbours": "nearest neighbours"}


class ProbePanel(NamedTuple):
    """One model in a figure."""

    title: str
    kinds: Sequence[KindResult]
    """Those that could be probed."""
    estimates: Mapping[str, Mapping[str, Estimate]]
    """By method and kind: the accuracy."""
    majority: float
    """Accuracy of the commonest class."""


def kind_title(kind: str) -> str:
    """A kind of token in words."""
    words = {
        "cls": "CLS",
        "cls_and_mean_register": "CLS + mean register",
        "normal_patch_beside": "normal patch, same images",
        "outliers_neighbour": "outlier's neighbour",
        "outlier_in_block_0": "outlier, after block 0",
    }
    return words.get(kind, kind.replace("_", " "))


def accuracy_figure(panels: Sequence[ProbePanel]) -> Figure:
    """Accuracy of every kind of token, models side by side, a panel for each method."""
    names = _all_kinds(panels)
    methods = [name for name in METHODS if any(name in panel.estimates for panel in panels)]
    with styled():
        height = 0.16 * len(names) * (1 + len(panels)) + 1.6
        figure = new_figure(
            3.6 * len(methods) + 1.2, max(2.8, height), "What each kind of token knows of the class"
        )
        axes = figure.subplots(1, len(methods), squeeze=False, sharey=True, sharex=True)[0]
        for axis, method in zip(axes, methods, strict=True):
            for place, panel in enumerate(panels):
                _draw_model(axis, panel, method, names, place, len(panels))
            axis.axvline(
                100 * panels[0].majority, color="#999999", ls=":", label="commonest training class"
            )
            axis.set_title(METHODS[method], loc="left")
            axis.set_xlabel("validation accuracy (%)")
        axes[0].set_yticks(range(len(names)), [kind_title(name) for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        legend_below(figure, list(axes), columns=2)
    return figure


def _draw_model(
    axis: Axes, panel: ProbePanel, method: str, names: Sequence[str], place: int, count: int
) -> None:
    step = 0.7 / count
    color = SERIES[place % len(SERIES)]
    marker = "os^Dvp*"[place % 7]
    label: str | None = series_name(panel.title)
    for kind in panel.kinds:
        estimate = panel.estimates.get(method, {}).get(kind.kind)
        if estimate is None:
            continue
        y = names.index(kind.kind) + step * (place - (count - 1) / 2)
        fits = kind.logistic if method == "logistic" else kind.neighbours
        if len(fits) > 1:
            draws = [100 * fit.is_right[kind.used].mean() for fit in fits]
            axis.plot(draws, [y] * len(draws), "|", color=color, ms=9, mew=1.0)
        if estimate.low is not None and estimate.high is not None:
            ends = (100 * estimate.low, 100 * estimate.high)
            axis.plot(ends, (y, y), color=color, lw=1.4, solid_capstyle="butt")
        axis.plot(100 * estimate.value, y, marker, color=color, ms=4.5, label=label, ls="none")
        label = None


def strengths_figure(panels: Sequence[ProbePanel], strengths: Sequence[float]) -> Figure:
    """Held-out accuracy against the strength of logistic regression, a panel a model."""
    with styled():
        columns = min(3, len(panels))
        rows = -(-len(panels) // columns)
        figure = new_figure(
            max(5.2, 3.4 * columns + 0.6), 2.9 * rows + 1.0, "Accuracy against the strength C"
        )
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
        names = _all_kinds(panels)
        for axis, panel in zip(grid, panels, strict=False):
            _draw_curves(axis, panel, names, strengths)
        for axis in grid[len(panels) :]:
            axis.remove()
        legend_below(figure, list(grid[: len(panels)]), columns=4)
    return figure


def _draw_curves(
    axis: Axes, panel: ProbePanel, names: Sequence[str], strengths: Sequence[float]
) -> None:
    for kind in panel.kinds:
        place = names.index(kind.kind)
        color, style = SERIES[place % len(SERIES)], LINE_STYLES[place // len(SERIES) % 4]
        curve = 100 * np.mean([fit.tried for fit in kind.logistic], axis=0)
        axis.plot(strengths, curve, color=color, ls=style, lw=1.4, label=kind_title(kind.kind))
        chosen = [fit.choice for fit in kind.logistic]
        places = [int(np.argmin(np.abs(np.array(strengths) - value))) for value in chosen]
        axis.plot(chosen, curve[places], "o", color=color, ms=4)
    axis.set_xscale("log")
    axis.set_title(panel.title, loc="left")
    axis.set_xlabel("strength C (large: weak penalty)")
    if is_leftmost(axis):
        axis.set_ylabel("held-out training accuracy (%)")


def _all_kinds(panels: Sequence[ProbePanel]) -> list[str]:
    """The kinds of all models, in the order of the one that has most."""
    longest = max(panels, key=lambda panel: len(panel.kinds))
    names = [kind.kind for kind in longest.kinds]
    others = [kind.kind for panel in panels for kind in panel.kinds if kind.kind not in names]
    return names + list(dict.fromkeys(others))
