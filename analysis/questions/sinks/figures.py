"""How are sinks drawn? Weights and contributions by block, and a point for every head."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import (
    is_leftmost,
    legend_below,
    new_figure,
    series_name,
    styled,
)
from regvit_jax.analysis.plotting import tokens as colours
from regvit_jax.analysis.statistics.bootstrap import Estimate

KINDS = {
    "cls": ("CLS", colours.CLS, "o"),
    "registers": ("registers", colours.REGISTERS, "s"),
    "outliers": ("outliers", colours.OUTLIERS, "^"),
    "patches": ("other patches", colours.PATCHES, "D"),
}
LEAST_VALUE = 0.02
"""Lower end of the axis of lengths: what lies below is drawn there."""


class Flow(NamedTuple):
    """One model's numbers."""

    title: str
    depth: int
    estimates: Mapping[tuple[str, ...], Estimate]


def flow_figure(models: Sequence[Flow]) -> Figure:
    """Attention of CLS, and what it adds to CLS, by kind and block; a column for each model."""
    with styled():
        figure = new_figure(2.7 * len(models) + 0.8, 4.4, "What CLS looks at, and what it takes")
        grid = figure.subplots(2, len(models), squeeze=False, sharey="row")
        rows = (("from_cls", "attention of CLS (%)"), ("contribution", "of its update (%)"))
        for row, (quantity, label) in zip(grid, rows, strict=True):
            for axis, model in zip(row, models, strict=True):
                _draw_kinds(axis, model, quantity)
                if is_leftmost(axis):
                    axis.set_ylabel(label)
        for axis, model in zip(grid[0], models, strict=True):
            axis.set_title(series_name(model.title), loc="left")
        for axis in grid[1]:
            axis.axhline(0.0, color="#999999", lw=0.8)
            axis.set_xlabel("block")
        legend_below(figure, list(grid.ravel()), columns=4)
    return figure


def _draw_kinds(axis: Axes, model: Flow, quantity: str) -> None:
    for kind, (label, color, marker) in KINDS.items():
        points = {
            block: model.estimates.get(("sinks", str(block), kind, quantity))
            for block in range(model.depth)
        }
        known = {block: point for block, point in points.items() if point is not None}
        if known:
            values = [100 * point.value for point in known.values()]
            axis.plot(list(known), values, color=color, marker=marker, ms=3.5, label=label)
    axis.set_xticks(range(0, model.depth, max(1, model.depth // 6)))


def heads_figure(models: Sequence[Flow], sink: float, no_op: float) -> Figure:
    """Attention received against the length of values, a point for each head and kind."""
    with styled():
        figure = new_figure(2.9 * len(models) + 0.8, 3.4, "Sinks, head by head")
        axes = figure.subplots(1, len(models), squeeze=False, sharex=True, sharey=True)[0]
        for axis, model in zip(axes, models, strict=True):
            for kind, (label, color, marker) in KINDS.items():
                if kind != "patches":
                    _draw_heads(axis, model, kind, (label, color, marker))
            axis.axvline(100 * sink, color="#999999", lw=0.8, ls="--")
            axis.axhline(no_op, color="#999999", lw=0.8, ls="--")
            axis.set_yscale("log")
            axis.set_xlabel("attention received (%)")
            axis.set_title(series_name(model.title), loc="left")
        axes[0].set_ylabel("length of values,\nover that of ordinary patches")
        legend_below(figure, list(axes), columns=3)
    return figure


def _draw_heads(axis: Axes, model: Flow, kind: str, style: tuple[str, str, str]) -> None:
    label, color, marker = style
    received, lengths = [], []
    for key, estimate in model.estimates.items():
        if key[0] == "sinks_heads" and key[3:] == (kind, "received"):
            length = model.estimates.get((*key[:4], "value"))
            if length is not None:
                received.append(100 * estimate.value)
                lengths.append(max(length.value, LEAST_VALUE))
    if received:
        axis.plot(received, lengths, marker, color=color, ms=4, alpha=0.7, ls="none", label=label)
