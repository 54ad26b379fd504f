"""How is drawn what patches tell? Intersection over union, by method and by class."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import legend_below, new_figure, series_name, styled
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.statistics.bootstrap import Estimate


class Bars(NamedTuple):
    """One model's numbers."""

    title: str
    estimates: Mapping[tuple[str, ...], Estimate]


def iou_figure(models: Sequence[Bars], methods: Mapping[str, str]) -> Figure:
    """Mean IoU by method, and IoU of each class by the linear classifier; models side by side."""
    known = dict.fromkeys(
        key[1] for model in models for key in model.estimates if key[0] == "segment_classes"
    )
    groups = (
        [(name, ("segment", name, "mean_iou"), title) for name, title in methods.items()],
        [(name, ("segment_classes", name, "iou"), name) for name in known],
    )
    with styled():
        rows = max(map(len, groups))
        height = 0.2 * rows * (1 + len(models) / 2) + 1.6
        figure = new_figure(7.4, max(2.8, height), "What patches tell of what they show")
        axes = figure.subplots(1, 2, squeeze=False)[0]
        titles = ("mean IoU", "linear, by class")
        for axis, rows_of, title in zip(axes, groups, titles, strict=True):
            _draw(axis, models, [(key, label) for _, key, label in rows_of])
            axis.set_title(title, loc="left")
            axis.set_xlabel("intersection over union (%)")
            axis.set_xlim(-3, 103)
        legend_below(figure, list(axes), columns=2)
    return figure


def _draw(axis: Axes, models: Sequence[Bars], rows: Sequence[tuple[tuple[str, ...], str]]) -> None:
    step = 0.7 / len(models)
    for place, model in enumerate(models):
        color, marker = SERIES[place % len(SERIES)], "os^Dvp*"[place % 7]
        label: str | None = series_name(model.title)
        for row, (key, _) in enumerate(rows):
            if (estimate := model.estimates.get(key)) is None:
                continue
            y = row + step * (place - (len(models) - 1) / 2)
            if estimate.low is not None and estimate.high is not None:
                axis.plot((100 * estimate.low, 100 * estimate.high), (y, y), color=color, lw=1.4)
            axis.plot(100 * estimate.value, y, marker, color=color, ms=4, ls="none", label=label)
            label = None
    axis.set_yticks(range(len(rows)), [label for _, label in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
