"""How are the boxes of LOST drawn? Beside the objects, and counted."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from regvit_jax.analysis.plotting import (
    LINE_STYLES,
    hide_ticks,
    legend_below,
    new_figure,
    row_label,
    series_name,
    styled,
)
from regvit_jax.analysis.plotting.palette import BLACK, SERIES, SKY, VERMILION, YELLOW
from regvit_jax.analysis.questions.lost.rules import Setting
from regvit_jax.analysis.questions.lost.scores import Scene
from regvit_jax.analysis.statistics.bootstrap import Estimate

FOUND, OBJECT, SEED = VERMILION, SKY, YELLOW
_DARK, _LIGHT = 0.4, 0.85  # of the brightness of grey, outside the mask and in its other pieces


class BoxPanel(NamedTuple):
    """One image and one model in a figure."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    """What the network saw, padding included."""
    mask: Bool[np.ndarray, "gh gw"]
    component: Bool[np.ndarray, "gh gw"]
    scene: Scene
    box: Int[np.ndarray, " 4"]
    seed: Float[np.ndarray, " 2"]
    """Its middle, (x, y)."""
    best_iou: float
    """NaN without an object."""
    patch_size: int


def boxes_figure(panels: Sequence[Sequence[BoxPanel]], titles: Sequence[str]) -> Figure:
    """Seed, mask, box and objects of images (rows), for each model (columns).

    Args:
      panels: By model, then by image.
      titles: Of the models.
    """
    with styled():
        rows, columns = max(map(len, panels)), len(panels)
        size = 2.5
        figure = new_figure(
            max(5.2, size * columns + 0.5), size * 0.85 * rows + 1.1, "Boxes that LOST finds"
        )
        axes = figure.subplots(rows, columns, squeeze=False)
        for column, model in enumerate(panels):
            for row, panel in enumerate(model):
                _draw_boxes(axes[row, column], panel)
                if column == 0:
                    row_label(axes[row, 0], panel.name)
            text = axes[0, column].get_title()
            axes[0, column].set_title(f"{titles[column]}\n{text}".strip(), fontsize=8)
        figure.legend(handles=_keys(panels), loc="outside lower center", ncols=2, fontsize=7.5)
    return figure


def _draw_boxes(axis: Axes, panel: BoxPanel) -> None:
    height, width = panel.scene.height, panel.scene.width
    axis.imshow(_masked(panel)[:height, :width])
    hide_ticks(axis)
    _frame(axis, panel.box, FOUND, 2.4)
    for box in panel.scene.objects:  # on top: a box may hide an object that it fits
        _frame(axis, box, OBJECT, 1.1)
    corner = panel.seed - panel.patch_size / 2
    patch = Rectangle(tuple(corner), panel.patch_size, panel.patch_size, facecolor=SEED)
    patch.set(edgecolor=BLACK, linewidth=0.8)
    axis.add_patch(patch)
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)
    if np.isfinite(panel.best_iou):
        axis.set_title(f"best IoU {panel.best_iou:.2f}", fontsize=7.5)


def _masked(panel: BoxPanel) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in colour in the seed's piece of the mask, and in grey elsewhere."""

    def to_pixels(patches):
        wide = patches.repeat(panel.patch_size, axis=0).repeat(panel.patch_size, axis=1)
        return wide[..., None]

    grey = panel.pixels.mean(axis=2, keepdims=True) * to_pixels(np.where(panel.mask, _LIGHT, _DARK))
    return np.where(to_pixels(panel.component), panel.pixels, grey).astype(np.uint8)


def _frame(axis: Axes, box, color: str, width: float) -> None:
    x0, y0, x1, y1 = (float(value) for value in box)
    for edge, line in ((BLACK, width + 1.2), (color, width)):
        axis.add_patch(
            Rectangle(
                (x0 - 0.5, y0 - 0.5),
                x1 - x0,
                y1 - y0,
                fill=False,
                edgecolor=edge,
                linewidth=line,
                clip_on=False,
            )
        )


def _keys(panels) -> list[Any]:
    keys: list[Any] = [
        Line2D([], [], color=FOUND, lw=2.4, label="box found"),
        Patch(facecolor=SEED, edgecolor=BLACK, label="seed"),
        Patch(facecolor="#bb8866", label="in colour: mask round the seed"),
        Patch(facecolor="#bbbbbb", label="light grey: rest of the mask"),
        Patch(facecolor="#444444", label="dark grey: outside the mask"),
    ]
    if any(len(panel.scene.objects) for model in panels for panel in model):
        keys.insert(1, Line2D([], [], color=OBJECT, lw=1.3, label="object"))
    return keys


def corloc_figure(
    rows: Sequence[tuple[str, Sequence[tuple[Setting, Estimate]]]],
    baselines: Mapping[str, Estimate],
) -> Figure:
    """CorLoc of every model and setting, with intervals, against boxes that look at nothing.

    Args:
      rows: Title of each model, and CorLoc of its settings.
      baselines: CorLoc of each.
    """
    with styled():
        names = [_setting_name(setting) for setting, _ in rows[0][1]]
        total = len(names)
        figure = new_figure(6.6, 1.9 + 0.28 * total * (len(rows) + 0.6), "CorLoc")
        axis = figure.subplots()
        for i, (title, settings) in enumerate(rows):
            places = np.arange(len(settings)) + (i - (len(rows) - 1) / 2) * 0.6 / len(rows)
            _draw_scores(axis, places, [estimate for _, estimate in settings], SERIES[i % 7], title)
        for i, (name, estimate) in enumerate(baselines.items()):
            label = f"{name.replace('_', ' ')} ({100 * estimate.value:.1f} %)"
            style = LINE_STYLES[1 + i % 3]
            axis.axvline(100 * estimate.value, color=BLACK, ls=style, lw=1.2, label=label)
        axis.set_yticks(np.arange(total), names)
        axis.set_ylim(total - 0.4, -0.6)
        axis.set_xlim(left=0)
        n = rows[0][1][0][1].n
        axis.set_xlabel(f"images whose box has IoU >= 0.5 with an object (%), n = {n}")
        legend_below(figure, [axis], columns=2)
    return figure


def _draw_scores(axis: Axes, places, estimates: Sequence[Estimate], color: str, title: str) -> None:
    values = 100 * np.array([e.value for e in estimates])
    ends = 100 * np.array([(e.low, e.high) for e in estimates], float)
    errors = np.abs(ends - values[:, None]).T
    label = series_name(title)
    axis.errorbar(
        values, places, xerr=errors, fmt="o", color=color, ms=5, capsize=3, lw=1.4, label=label
    )


def _setting_name(setting: Setting) -> str:
    name = f"{setting.feature}s, block {setting.layer}"
    return f"{name}, bias {setting.gram_bias:g}" if setting.gram_bias else name
