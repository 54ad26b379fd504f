"""How is attention drawn? Functions from maps and summaries to figures; maps in per cent."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import (
    LINE_STYLES,
    legend_below,
    new_figure,
    round_up,
    row_label,
    series_name,
    show_image,
    show_map,
    styled,
)
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.plotting.tokens import CLS, PATCHES, REGISTERS
from regvit_jax.analysis.questions.attention.attention import AttentionSummary
from regvit_jax.analysis.statistics.bootstrap import Estimate

# A single patch can hold a third of the attention; a scale up to it would leave the rest dark.
_SCALE_QUANTILE = 0.995
_PANEL = 1.45


class ShownAttention(NamedTuple):
    """The attention on one image, of one model, in the chosen block."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    maps: Float[np.ndarray, "k q gh gw"]
    """Weights of k heads and q queries; each query's sum is at most 1."""


class AttentionPanel(NamedTuple):
    """One model in a figure of summaries."""

    title: str
    summary: AttentionSummary


def maps_figure(
    images: Sequence[ShownAttention], queries: Sequence[str], title: str, block: str
) -> Figure:
    """CLS's and every register's map, mean over the heads, beside each image."""
    with styled():
        heads = ["image", *queries]
        figure = new_figure(
            max(_PANEL * len(heads) + 1.4, 5.0),
            _PANEL * len(images) + 1.0,
            f"{title}: attention of {block}, mean over the heads",
        )
        axes = figure.subplots(len(images), len(heads), squeeze=False)
        means = [image.maps.mean(axis=0) for image in images]
        limits = _limits(means)
        for row, image, maps in zip(axes, images, means, strict=True):
            show_image(row[0], image.pixels)
            row_label(row[0], image.name)
            for axis, values in zip(row[1:], maps, strict=True):
                drawn = show_map(axis, 100 * values, limits)
        _head_row(list(axes[0]), heads)
        _colour_bar(figure, drawn, axes, len(axes))
    return figure


def heads_figure(image: ShownAttention, queries: Sequence[str], title: str, block: str) -> Figure:
    """The maps of every head on one image; one row a query."""
    with styled():
        num_heads = image.maps.shape[0]
        figure = new_figure(
            _PANEL * (num_heads + 2) + 1.4,
            _PANEL * len(queries) + 1.2,
            f"{title}: attention of {block}, head by head",
        )
        axes = figure.subplots(len(queries), num_heads + 2, squeeze=False)
        limits = _limits([image.maps])
        for row, (axis_row, query) in enumerate(zip(axes, queries, strict=True)):
            if row == 0:
                show_image(axis_row[0], image.pixels)
            else:
                axis_row[0].axis("off")
            row_label(axis_row[1], query)
            show_map(axis_row[1], 100 * image.maps[:, row].mean(axis=0), limits)
            for head in range(num_heads):
                values = 100 * image.maps[head, row]
                drawn = show_map(axis_row[head + 2], values, limits)
        _head_row(list(axes[0]), ["image", "mean", *(f"head {head}" for head in range(num_heads))])
        _colour_bar(figure, drawn, axes, len(queries))
    return figure


def side_by_side_figure(
    models: Sequence[tuple[str, Sequence[ShownAttention]]], block: str
) -> Figure:
    """CLS's map of several models on the same images, on one scale."""
    with styled():
        num_images = len(models[0][1])
        figure = new_figure(
            _PANEL * 1.2 * (1 + len(models)) + 1.6,
            _PANEL * 1.2 * num_images + 1.0,
            f"Attention of CLS, {block}, mean over the heads",
        )
        axes = figure.subplots(num_images, 1 + len(models), squeeze=False)
        limits = _limits(
            [image.maps[:, 0].mean(axis=0) for _, images in models for image in images]
        )
        for row in range(num_images):
            first = models[0][1][row]
            show_image(axes[row, 0], first.pixels)
            row_label(axes[row, 0], first.name)
            for axis, (_, images) in zip(axes[row, 1:], models, strict=True):
                values = 100 * images[row].maps[:, 0].mean(axis=0)
                drawn = show_map(axis, values, limits)
        _head_row(list(axes[0]), ["image", *(title.replace(" (", "\n(") for title, _ in models)])
        _colour_bar(figure, drawn, axes, num_images)
    return figure


def evolution_figure(
    stages: Sequence[tuple[str, ShownAttention]], queries: Sequence[str], title: str, block: str
) -> Figure:
    """The maps of one image over training: rows CLS and registers, columns checkpoints."""
    with styled():
        size = 1.15
        figure = new_figure(
            size * (1 + len(stages)) + 1.6,
            size * len(queries) + 1.3,
            f"{title}: attention over training",
        )
        axes = figure.subplots(len(queries), 1 + len(stages), squeeze=False)
        means = [shown.maps.mean(axis=0) for _, shown in stages]
        limits = _limits(means)
        show_image(axes[0, 0], stages[0][1].pixels)
        for row in axes[1:, 0]:
            row.axis("off")
        for column, maps in zip(axes.T[1:], means, strict=True):
            for axis, values in zip(column, maps, strict=True):
                drawn = show_map(axis, 100 * values, limits)
        for row, query in zip(axes, queries, strict=True):
            row_label(row[1], query)
        _head_row(list(axes[0]), ["image", *(name for name, _ in stages)])
        _colour_bar(figure, drawn, axes, len(queries))
        figure.supxlabel(
            f"{stages[0][1].name}; {block}, mean over the heads, not renormalised", fontsize=8
        )
    return figure


def average_figure(panels: Sequence[AttentionPanel], block: str) -> Figure:
    """The maps averaged over all images; one row a model, one scale."""
    with styled():
        columns = max(len(panel.summary.queries) for panel in panels)
        figure = new_figure(
            max(5.0, _PANEL * columns + 1.8),
            _PANEL * 1.25 * len(panels) + 0.9,
            f"Average attention maps, {block}",
        )
        axes = figure.subplots(len(panels), columns, squeeze=False)
        averages = np.concatenate([panel.summary.average_map.ravel() for panel in panels])
        limits = (100 * float(averages.min()), 100 * float(averages.max()))
        for row, panel in zip(axes, panels, strict=True):
            for axis in row[len(panel.summary.queries) :]:
                axis.axis("off")
            for i, query in enumerate(panel.summary.queries):
                drawn = show_map(row[i], 100 * panel.summary.average_map[i], limits)
                row[i].set_title(query, fontsize=8)
            row_label(row[0], panel.title.replace(" (", "\n("))
        _colour_bar(figure, drawn, axes, len(panels), extend="neither")
    return figure


def by_layer_figure(panels: Sequence[AttentionPanel]) -> Figure:
    """Where CLS's attention goes in every block, how even it is, and its largest weight."""
    with styled():
        figure = new_figure(3.5 * len(panels) + 0.5, 7.2, "Attention by block, mean over images")
        axes = figure.subplots(3, len(panels), squeeze=False, sharex="col", sharey="row")
        for column, panel in zip(axes.T, panels, strict=True):
            _draw_masses(column[0], panel)
            _draw_queries(column[1], panel, "entropy", 1.0)
            _draw_queries(column[2], panel, "largest_weight", 100.0)
            column[2].set_xlabel("block, from 0")
            column[0].set_title(f"{panel.title}\nn = {panel.summary.num_images} images", loc="left")
        axes[0, 0].set_ylabel("where CLS's attention\ngoes (%)")
        axes[0, 0].set_ylim(0, 100)
        axes[1, 0].set_ylabel("entropy over patches\n(1 = even)")
        axes[1, 0].set_ylim(0, 1.03)
        axes[2, 0].set_ylabel("largest weight on\none patch (%)")
        axes[2, 0].set_ylim(bottom=0)
        legend_below(figure, list(axes.ravel()), columns=4)
    return figure


def similarity_figure(panels: Sequence[AttentionPanel]) -> Figure:
    """How similar the registers' maps are in every block."""
    with styled():
        figure = new_figure(6.4, 3.6, "Similarity of the registers' attention maps")
        axis = figure.subplots()
        for i, panel in enumerate(panels):
            pairs = panel.summary.register_maps
            if pairs is None:
                continue
            color = SERIES[i % len(SERIES)]
            for which, style, name in ((0, "-", "cosine"), (1, "--", "centred cosine")):
                estimates = [pair[which] for pair in pairs]
                label = series_name(f"{panel.title}, {name}")
                _draw_line(axis, estimates, 1.0, color, style, label)
        axis.set_xlabel("block, from 0")
        axis.set_ylabel("mean over pairs of registers\nand over images")
        axis.set_ylim(top=1.03)
        legend_below(figure, [axis], columns=2)
    return figure


def _draw_masses(axis: Axes, panel: AttentionPanel) -> None:
    targets = (
        ("mass_patches", PATCHES, "-", "on patches"),
        ("mass_cls", CLS, "--", "on CLS itself"),
        ("mass_registers", REGISTERS, "-.", "on registers"),
    )
    for measure, color, style, label in targets:
        if measure == "mass_registers" and len(panel.summary.queries) == 1:
            continue
        estimates = [row[0] for row in panel.summary.measures[measure]]
        _draw_line(axis, estimates, 100.0, color, style, f"CLS: {label}")


def _draw_queries(axis: Axes, panel: AttentionPanel, measure: str, scale: float) -> None:
    for query, name in enumerate(panel.summary.queries):
        estimates = [row[query] for row in panel.summary.measures[measure]]
        color = CLS if name == "CLS" else REGISTERS
        style = "-" if name == "CLS" else LINE_STYLES[(query - 1) % len(LINE_STYLES)]
        _draw_line(axis, estimates, scale, color, style, f"of {name}")


def _draw_line(
    axis: Axes, estimates: Sequence[Estimate], scale: float, color: str, style: str, label: str
) -> None:
    """Values of the blocks, with a band for their intervals."""
    x = np.arange(len(estimates))
    axis.plot(x, [scale * e.value for e in estimates], color=color, ls=style, lw=1.5, label=label)
    if all(e.low is not None for e in estimates):
        low, high = ([scale * (e[i] or 0.0) for e in estimates] for i in (2, 3))
        axis.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axis.set_xticks(x[:: max(1, len(x) // 8)])


def _limits(maps: Sequence[np.ndarray]) -> tuple[float, float]:
    values = np.concatenate([np.asarray(values).ravel() for values in maps])
    return 0.0, round_up(100 * float(np.quantile(values, _SCALE_QUANTILE)))


def _colour_bar(figure: Figure, drawn, axes, num_rows: int, extend: str = "max") -> None:
    bar = figure.colorbar(
        drawn, ax=axes, shrink=min(1.0, 2.6 / num_rows), pad=0.02, extend=extend, aspect=18
    )
    bar.set_label("weight of a patch\n(% of the query's attention;\none scale for all panels)")


def _head_row(axes: Sequence[Axes], titles: Sequence[str]) -> None:
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=8.5)
