"""How are register neurons drawn? What every number of units does, and maps before and after."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import (
    legend_below,
    new_figure,
    row_label,
    series_name,
    show_image,
    show_map,
    styled,
)
from regvit_jax.analysis.plotting.palette import BLUE, GREEN, VERMILION
from regvit_jax.analysis.statistics.bootstrap import Estimate

CONDITIONS = {
    "shifted": ("the most active units shifted", BLUE, "-"),
    "random_shifted": ("random units shifted", GREEN, "--"),
    "zeroed": ("the most active units silent", VERMILION, ":"),
}
PANELS = {
    "outliers": ("outliers (% of patches)", 100.0),
    "top1_change": ("top-1, change (points)", 100.0),
    "same_answer": ("same answer (% of images)", 100.0),
    "corloc_change": ("CorLoc, change (points)", 100.0),
}


class Sweep(NamedTuple):
    """One model's sweep."""

    title: str
    num_chosen: int
    estimates: Mapping[tuple[str, ...], Estimate]
    """By condition, number of units and quantity."""


class SweptMaps(NamedTuple):
    """One image, and where CLS looks in it."""

    name: str
    pixels: UInt8[np.ndarray, "h w 3"]
    before: Float[np.ndarray, "gh gw"]
    after: Float[np.ndarray, "gh gw"]


def sweep_figure(models: Sequence[Sweep]) -> Figure:
    """Scores against the number of units, a row for each model."""
    known = {key[-1] for model in models for key in model.estimates}
    panels = [name for name in PANELS if name in known]
    with styled():
        size = (2.4 * len(panels) + 0.6, 2.1 * len(models) + 0.9)
        figure = new_figure(*size, "Units shifted to test-time registers")
        grid = figure.subplots(len(models), len(panels), squeeze=False, sharex=True)
        for row, model in zip(grid, models, strict=True):
            for axis, name in zip(row, panels, strict=True):
                _draw(axis, model, name)
                axis.set_ylabel(PANELS[name][0], fontsize=8)
            row[0].set_title(series_name(model.title), loc="left")
        for axis in grid[-1]:
            axis.set_xlabel("units")
        legend_below(figure, list(grid.ravel()), columns=3)
    return figure


def _draw(axis: Axes, model: Sweep, quantity: str) -> None:
    scale = PANELS[quantity][1]
    for condition, (label, color, style) in CONDITIONS.items():
        points = sorted(
            (int(key[1]), estimate)
            for key, estimate in model.estimates.items()
            if key[0] == condition and key[-1] == quantity
        )
        if not points:
            continue
        places = [place for place, _ in points]
        axis.plot(places, [scale * e.value for _, e in points], color=color, ls=style, label=label)
        lows = [scale * (e.value if e.low is None else e.low) for _, e in points]
        highs = [scale * (e.value if e.high is None else e.high) for _, e in points]
        axis.fill_between(places, lows, highs, color=color, alpha=0.2, lw=0)
    axis.set_xscale("log")
    axis.axvline(model.num_chosen, color="#777777", ls="--", lw=0.8)
    if (before := model.estimates.get(("untouched", "0", quantity))) is not None:
        axis.axhline(scale * before.value, color="#999999", lw=0.8)


def maps_figure(title: str, images: Sequence[SweptMaps]) -> Figure:
    """Image, map before and map after, a row for each image."""
    with styled():
        figure = new_figure(4.8, 1.55 * len(images) + 0.6, title)
        grid = figure.subplots(len(images), 3, squeeze=False)
        for row, image in zip(grid, images, strict=True):
            show_image(row[0], image.pixels[..., :3])
            row_label(row[0], image.name)
            for axis, values in ((row[1], image.before), (row[2], image.after)):
                show_map(axis, values, (float(values.min()), float(values.max())))
        for axis, words in zip(grid[0], ("image", "untouched", "test-time registers"), strict=True):
            axis.set_title(words, fontsize=8)
    return figure
