"""How do numbers change over a training run? One panel a number, one line a run."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import LINE_STYLES, legend_below, new_figure, series_name, styled
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.statistics.bootstrap import Estimate

_LEAST = 0.06
"""Per cent; the axis of shares that are all zero ends at 1."""


class Run(NamedTuple):
    """Some checkpoints of one training run."""

    label: str
    unit: str
    """"step", or "epoch" (counted from 1) where no step is known."""
    places: list[int]
    """How far each checkpoint is, rising."""
    members: list[int]
    """Which of the subjects they are."""


class Curves(NamedTuple):
    """One number of all stages of all runs."""

    label: str
    scale: float
    """100 for a share in per cent."""
    values: Mapping[int, Estimate | None]
    """By the subject's place in the list; None where it is not there."""


def curves_figure(title: str, runs: Sequence[Run], panels: Sequence[Curves], note: str) -> Figure:
    """Numbers against the step, with bands for their intervals."""
    with styled():
        figure = new_figure(6.6, 1.9 * len(panels) + 1.3, title)
        axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True)[:, 0]
        for axis, panel in zip(axes, panels, strict=True):
            for i, run in enumerate(runs):
                _draw(axis, run, panel, SERIES[i % len(SERIES)], LINE_STYLES[i // len(SERIES) % 4])
            axis.set_ylabel(panel.label)
            axis.ticklabel_format(axis="y", useOffset=False)
            if panel.scale == 100.0:  # shares begin at zero
                highest = axis.dataLim.y1
                axis.set_ylim(0.0, 1.08 * highest if highest > _LEAST else 1.0)
        axes[-1].set_xlabel(" and ".join(sorted({f"training {run.unit}" for run in runs})))
        axes[0].set_title(note, loc="left", fontsize=8)
        legend_below(figure, list(axes), columns=2)
    return figure


def _draw(axis: Axes, run: Run, panel: Curves, color: str, style: str) -> None:
    known = [
        (place, estimate)
        for place, member in zip(run.places, run.members, strict=True)
        if (estimate := panel.values.get(member)) is not None
    ]
    if not known:
        return
    x = [place for place, _ in known]
    axis.plot(
        x,
        [panel.scale * estimate.value for _, estimate in known],
        color=color,
        ls=style,
        marker="o",
        ms=3.5,
        label=series_name(run.label),
    )
    banded = [(place, e.low, e.high) for place, e in known if e.low is not None]
    if len(banded) == len(known):
        low = [panel.scale * (value or 0.0) for _, value, _ in banded]
        high = [panel.scale * (value or 0.0) for _, _, value in banded]
        axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
