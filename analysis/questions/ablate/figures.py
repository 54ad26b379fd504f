"""How is drawn what replaced tokens cost? Conditions in rows, scores in columns."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import (
    legend_below,
    new_figure,
    series_name,
    styled,
)
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.statistics.bootstrap import Estimate


class Costs(NamedTuple):
    """One model in the figure."""

    title: str
    estimates: Mapping[tuple[str, ...], Estimate]
    """By condition and quantity."""


def cost_figure(
    models: Sequence[Costs],
    conditions: Mapping[str, str],
    panels: Mapping[str, tuple[str, float]],
) -> Figure:
    """What each condition costs, a panel for each score that any model has.

    Args:
      models: Side by side.
      conditions: Titles by name, from the top.
      panels: Label of the axis and scale by quantity.
    """
    names = list(conditions)
    known = {key[-1] for model in models for key in model.estimates}
    shown = {name: panel for name, panel in panels.items() if name in known}
    with styled():
        height = 0.17 * len(names) * (0.7 + len(models) / 2) + 1.6
        title = "What it costs to replace CLS and the registers"
        figure = new_figure(2.6 + 1.95 * len(shown), max(2.8, height), title)
        axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
        for axis, (name, (label, scale)) in zip(axes, shown.items(), strict=True):
            for place, model in enumerate(models):
                _draw_model(axis, model, (names, name, scale), place, len(models))
            axis.axvline(1.0 if name == "cosine" else 0.0, color="#999999", lw=0.8)
            axis.set_xlabel(label, fontsize=8)
        axes[0].set_yticks(range(len(names)), list(conditions.values()))
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        legend_below(figure, list(axes), columns=2)
    return figure


def _draw_model(
    axis: Axes, model: Costs, drawn: tuple[list[str], str, float], place: int, count: int
) -> None:
    names, quantity, scale = drawn
    step = 0.7 / count
    label: str | None = series_name(model.title)
    for row, name in enumerate(names):
        estimate = model.estimates.get((name, quantity))
        if estimate is None:
            continue
        y = row + step * (place - (count - 1) / 2)
        color = SERIES[place % len(SERIES)]
        if estimate.low is not None and estimate.high is not None:
            axis.plot((scale * estimate.low, scale * estimate.high), (y, y), lw=1.4, color=color)
        marker = "os^Dvp*"[place % 7]
        axis.plot(scale * estimate.value, y, marker, ms=4, ls="none", label=label, color=color)
        label = None
