"""How are norms drawn? Functions from summaries to figures."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from regvit_jax.analysis.options import LAST
from regvit_jax.analysis.outliers.labels import GROUP
from regvit_jax.analysis.outliers.streams import NORMED
from regvit_jax.analysis.plotting import (
    LINE_STYLES,
    is_leftmost,
    legend_below,
    new_figure,
    outline_patches,
    round_up,
    row_label,
    series_name,
    show_image,
    show_map,
    styled,
)
from regvit_jax.analysis.plotting.palette import BLACK, GREEN, ORANGE, PURPLE, SERIES, VERMILION
from regvit_jax.analysis.plotting.tokens import CLS, PATCHES, REGISTERS
from regvit_jax.analysis.questions.norms.norms import NormSummary

NUM_OUTLINED = 5

_BANDS = (
    ("q02", "q90", 0.15, "patches, 2 to 90 %"),
    ("q90", "q99", 0.30, "patches, 90 to 99 %"),
    ("q99", "max", 0.50, "patches, top 1 %"),
)

_CUT_STYLES = {
    GROUP: ("the group found", BLACK, "-"),
    "quantile_98": ("98 % quantile (always 2 %)", GREEN, ":"),
    "quantile_99_5": ("99.5 % quantile (always 0.5 %)", GREEN, "--"),
    "mean_plus_3sd": ("mean + 3 sd", ORANGE, "-."),
    "3_x_median": ("3 x median", VERMILION, "-"),
    "absolute_150": ("norm 150 (DINOv2-g)", PURPLE, (0, (4, 1, 1, 1, 1, 1))),
}


class NormPanel(NamedTuple):
    """One model in a figure."""

    title: str
    summary: NormSummary
    is_twin: bool


class ShownImage(NamedTuple):
    """One image in the figure of norm maps."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    maps: list[Float[np.ndarray, "gh gw"]]
    """One map per model, in units of the model's median patch norm in that layer."""


def by_layer_figure(panels: Sequence[NormPanel]) -> Figure:
    """Patch norms of every layer as quantile bands, with CLS and each register as lines."""
    with styled():
        figure, axes = _panel_grid(panels, "Token norms by layer", height=3.1)
        for axis, panel in zip(axes, panels, strict=True):
            _draw_layers(axis, panel)
        legend_below(figure, axes, columns=5)
    return figure


def _draw_layers(axis: Axes, panel: NormPanel) -> None:
    layers = [row for row in panel.summary.layers if row.layer != NORMED]
    by_kind: dict[str, list] = {}
    for row in layers:
        by_kind.setdefault(row.kind, []).append(row.values)
    patches = by_kind.pop("patches")
    x = np.arange(len(patches))
    for low, high, alpha, label in _BANDS:
        lower, upper = ([values[q].value for values in patches] for q in (low, high))
        axis.fill_between(x, lower, upper, color=PATCHES, alpha=alpha, linewidth=0, label=label)
    axis.plot(
        x, [v["median"].value for v in patches], color=PATCHES, lw=1.8, label="patches, median"
    )
    axis.plot(x, [v["max"].value for v in patches], color=PATCHES, lw=0.7, label="patches, largest")
    for place, (kind, rows) in enumerate(by_kind.items()):
        color = CLS if kind == "cls" else REGISTERS
        label = "CLS, median" if kind == "cls" else f"register {kind.removeprefix('register_')}"
        style = "--" if kind == "cls" else LINE_STYLES[(place - 1) % len(LINE_STYLES)]
        axis.plot(x, [v["median"].value for v in rows], color=color, ls=style, lw=1.4, label=label)
    axis.set_yscale("log")
    _plain_log_ticks(axis.yaxis)
    axis.set_xlim(0, len(x) - 1)
    axis.set_xticks(x[:: max(1, len(x) // 8)])
    axis.set_xlabel("blocks passed")
    axis.set_title(f"{panel.title}\nn = {panel.summary.num_images} images", loc="left")
    if is_leftmost(axis):
        axis.set_ylabel("L2 norm of a token")


def histogram_figure(panels: Sequence[NormPanel]) -> Figure:
    """How many patches have which norm after the last block, with the definitions of an outlier."""
    with styled():
        title = "Patch norms after the last block (before the last LayerNorm)"
        figure, axes = _panel_grid(panels, title, height=2.9, share_x=True)
        limits = _ratio_limits(panels)
        for axis, panel in zip(axes, panels, strict=True):
            _draw_histogram(axis, panel, limits)
        legend_below(figure, axes, columns=3)
    return figure


def _ratio_limits(panels: Sequence[NormPanel]) -> tuple[float, float]:
    """The range of norms, in medians, that holds all panels and the line at 3 x the median."""
    ends = [panel.summary.histogram[1][[0, -1]] / _median(panel.summary) for panel in panels]
    return min(end[0] for end in ends) / 1.05, max(3.3, *(end[1] for end in ends)) * 1.05


def _draw_histogram(axis: Axes, panel: NormPanel, limits: tuple[float, float]) -> None:
    summary = panel.summary
    median = _median(summary)
    counts, edges = summary.histogram
    axis.stairs(counts, edges / median, fill=True, color=PATCHES, alpha=0.75)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_ylim(bottom=0.7)
    axis.set_xlim(*limits)
    _plain_log_ticks(axis.xaxis)
    for name, by in summary.by[LAST].items():
        cut, (label, color, style) = by.cut, _CUT_STYLES[name]
        if limits[0] < cut / median < limits[1]:
            axis.axvline(cut / median, color=color, ls=style, lw=1.4, label=label)
    answer = summary.answer
    axis.set_title(
        f"{panel.title}\noutliers: {answer}\nmedian norm {median:.3g}, "
        f"n = {summary.num_images} images x {summary.num_patches}",
        loc="left",
        fontsize=8.5,
    )
    axis.set_xlabel("norm / median norm")
    if is_leftmost(axis):
        axis.set_ylabel("patches")


def maps_figure(
    images: Sequence[ShownImage], titles: Sequence[str], answers: Sequence[str], where: str
) -> Figure:
    """Images beside the norms of their patches; the largest norms are framed.

    Args:
      images: A row each.
      titles: Of the models.
      answers: Whether they have outliers.
      where: The layer in words.
    """
    with styled():
        size, columns = 1.75, 1 + len(titles)
        figure = new_figure(
            max(4.6, size * columns + 1.0),
            size * len(images) + 1.0,
            f"Patch norms {where}",
        )
        axes = figure.subplots(len(images), columns, squeeze=False)
        limit = round_up(max(float(values.max()) for image in images for values in image.maps))
        for row, image in zip(axes, images, strict=True):
            show_image(row[0], image.pixels)
            row_label(row[0], image.name)
            for axis, values in zip(row[1:], image.maps, strict=True):
                drawn = show_map(axis, values, (0.0, limit))
                outline_patches(axis, _largest(values))
        axes[0, 0].set_title("image")
        for axis, title, answer in zip(axes[0, 1:], titles, answers, strict=True):
            axis.set_title(f"{_wrap(title)}\noutliers: {answer}", fontsize=8)
        bar = figure.colorbar(drawn, ax=axes, shrink=min(1.0, 2.2 / len(images)), pad=0.02)
        bar.set_label("norm / median of all patches\n(one scale for all panels)")
        figure.supxlabel(f"Framed: the {NUM_OUTLINED} largest norms of each image.", fontsize=8)
    return figure


def positions_figure(panels: Sequence[NormPanel]) -> Figure:
    """Where in the image the largest norms sit, and in which layer they appear."""
    with styled():
        figure = new_figure(
            max(6.4, 2.5 * len(panels) + 1.2), 5.6, "Where and when large patch norms appear"
        )
        grid = figure.add_gridspec(2, len(panels), height_ratios=(1.15, 1))
        limit = round_up(max(float(panel.summary.map.max()) * 100 for panel in panels))
        maps = [figure.add_subplot(grid[0, i]) for i in range(len(panels))]
        for axis, panel in zip(maps, panels, strict=True):
            summary = panel.summary
            drawn = show_map(axis, summary.map * 100, (0.0, limit))
            axis.set_title(
                f"{_wrap(panel.title)}\nnorm > {summary.drawn_ratio:.2g} x median\n"
                f"{summary.labels.where}",
                fontsize=8,
            )
        bar = figure.colorbar(drawn, ax=maps, shrink=0.9)
        bar.set_label("images with a large norm here (%)\n(one scale for all panels)")
        _draw_emergence(figure.add_subplot(grid[1, :]), panels)
    return figure


def _draw_emergence(axis: Axes, panels: Sequence[NormPanel]) -> None:
    for i, panel in enumerate(panels):
        if panel.summary.emergence is None:
            continue
        x, shares = _stages(panel.summary)
        style = LINE_STYLES[i // len(SERIES) % 4]
        color, label = SERIES[i % len(SERIES)], series_name(panel.title)
        axis.plot(x, 100 * shares, color=color, ls=style, marker="o", ms=3, label=label)
    axis.set_ylim(-3, 103)
    axis.set_xlabel("blocks passed (half a block: its attention only)")
    axis.set_ylabel("already as far from\nthe median there (%)")
    axis.set_title("Patches that are large there", loc="left")
    axis.legend(loc="best")
    longest = max(len(panel.summary.verdicts) for panel in panels)
    axis.set_xticks(np.arange(longest)[:: max(1, longest // 12)])


def _stages(summary: NormSummary) -> tuple[np.ndarray, np.ndarray]:
    """Blocks passed, and the share of the large patches that are large by then."""
    if summary.origin is None:
        return np.arange(len(summary.verdicts)), np.array(summary.emergence)
    shares = [summary.origin[0].share_before, *(stage.share_after for stage in summary.origin)]
    return 0.5 * np.arange(len(shares)), np.array(shares)


def low_tail_figure(panels: Sequence[NormPanel]) -> Figure:
    """Where in the image the smallest norms sit."""
    with styled():
        columns = min(4, len(panels))
        rows = -(-len(panels) // columns)
        figure = new_figure(
            max(4.8, 2.5 * columns + 1.2), 2.9 * rows + 0.6, "Where small patch norms sit"
        )
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        largest = max(float(panel.summary.low_tail.map_q02.max()) for panel in panels)
        limit = round_up(100 * max(largest, 0.02))
        for axis, panel in zip(grid, panels, strict=False):
            tail = panel.summary.low_tail
            drawn = show_map(axis, 100 * tail.map_q02, (0.0, limit))
            axis.set_title(
                f"{_wrap(panel.title)}\n2 % below {tail.q02_over_median:.2f} x median\n"
                f"{100 * tail.share_below_third.value:.2f} % below a third of it",
                fontsize=8,
            )
        for axis in grid[len(panels) :]:
            axis.remove()
        bar = figure.colorbar(drawn, ax=list(grid[: len(panels)]), shrink=0.9)
        bar.set_label("images with one of the 2 %\nsmallest norms here (%)")
    return figure


def _panel_grid(panels: Sequence[NormPanel], title: str, height: float, share_x: bool = False):
    """Panels side by side, at most three in a row, checkpoints before their untrained twins."""
    columns = min(3, max(1, sum(not panel.is_twin for panel in panels)))
    columns = max(columns, min(2, len(panels)))
    rows = -(-len(panels) // columns)
    figure = new_figure(3.5 * columns + 0.4, height * rows + 1.0, title)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True, sharex=share_x).ravel()
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure, list(axes[: len(panels)])


def _plain_log_ticks(axis) -> None:
    """Ticks at 1, 2, 5 times powers of ten, written out."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _median(summary: NormSummary) -> float:
    return summary.median


def _largest(values) -> list[tuple[int, int]]:
    order = np.argsort(values, axis=None)[::-1][:NUM_OUTLINED]
    return [(int(i) // values.shape[1], int(i) % values.shape[1]) for i in order]


def _wrap(title: str) -> str:
    """A title in two lines, the registers in the second."""
    return title.replace(" (", "\n(")
