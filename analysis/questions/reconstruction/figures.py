"""How are reconstructions drawn? Pictures from tokens, and errors by group."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.outliers.labels import DEFINITION_LABELS
from regvit_jax.analysis.plotting import (
    new_figure,
    outline_patches,
    round_up,
    row_label,
    show_image,
    show_map,
    styled,
)
from regvit_jax.analysis.plotting.palette import SKY
from regvit_jax.analysis.plotting.tokens import OUTLIERS, PATCHES
from regvit_jax.analysis.questions.reconstruction.pictures import ShownReconstruction
from regvit_jax.analysis.statistics.bootstrap import Estimate

PROBE_LABELS = {"linear": "linear probe", "mlp": "MLP probe"}
_MARKERS = (
    ("normal", "normal patches", PATCHES, "o", -0.22),
    ("matched", "normal patches, matched for variance", SKY, "D", 0.0),
    ("outlier", "outliers", OUTLIERS, "s", 0.22),
)


class GroupsPanel(NamedTuple):
    """One model in the figure of groups."""

    title: str
    num_images: int
    definitions: list[str]
    shares: list[float]
    estimates: list[Mapping[str, Estimate]]
    """By definition, of "/"-joined names."""


def pictures_figure(shown: Sequence[ShownReconstruction], title: str) -> Figure:
    """Images, what each probe rebuilds from the tokens, and where it errs; outliers are framed."""
    probes = list(shown[0].rebuilt)
    columns = 1 + 2 * len(probes)
    with styled():
        figure = new_figure(
            1.75 * columns + 1.1, 1.8 * len(shown) + 1.2, f"{title}: images from their tokens"
        )
        axes = figure.subplots(len(shown), columns, squeeze=False)
        limit = round_up(max(float(e.max()) for image in shown for e in image.errors.values()))
        for row, image in zip(axes, shown, strict=True):
            _draw_pictures(row, image, (0.0, limit))
        axes[0, 0].set_title("input", fontsize=8.5)
        for place, probe in enumerate(probes):
            axes[0, 1 + 2 * place].set_title(PROBE_LABELS[probe], fontsize=8.5)
            axes[0, 2 + 2 * place].set_title(f"its error\n({PROBE_LABELS[probe]})", fontsize=8.5)
        drawn = show_map(axes[0, 2], shown[0].errors[probes[0]], (0.0, limit))
        bar = figure.colorbar(drawn, ax=axes, shrink=min(1.0, 2.2 / len(shown)), pad=0.02)
        bar.set_label("L2 error of a token\n(one scale for all panels)")
        figure.supxlabel(
            "Every patch is predicted from its own token. Framed: outliers.", fontsize=8
        )
    return figure


def _draw_pictures(row, image: ShownReconstruction, limits: tuple[float, float]) -> None:
    cells = [(int(r), int(c)) for r, c in np.argwhere(image.is_outlier)]
    show_image(row[0], image.pixels)
    row_label(row[0], image.name)
    side = image.pixels.shape[0] / image.is_outlier.shape[0]
    outline_patches(row[0], cells, side)
    for place, (probe, rebuilt) in enumerate(image.rebuilt.items()):
        picture = np.round(np.clip(rebuilt, 0, 1) * 255).astype(np.uint8)
        show_image(row[1 + 2 * place], picture)
        show_map(row[2 + 2 * place], image.errors[probe], limits)
        outline_patches(row[2 + 2 * place], cells)


def groups_figure(panels: Sequence[GroupsPanel], pixel: Sequence[str]) -> Figure:
    """Errors of normal patches, matched normal patches and outliers, by definition and model."""
    measures = [(f"{p}/normalised/l2", f"L2 error of a token,\n{PROBE_LABELS[p]}") for p in pixel]
    measures += [
        ("position/top1", "position found (%),\nlinear probe"),
        ("position/distance", "distance to the position\n(patches), linear probe"),
    ]
    with styled():
        figure = new_figure(
            2.15 * len(measures) + 1.6,
            1.9 * len(panels) + 1.3,
            "What outliers and normal patches hold",
        )
        # Each row has labels of its own: how many patches a definition takes differs by model.
        grid = figure.subplots(
            len(panels), len(measures), squeeze=False, sharex="col", sharey="row"
        )
        for row, panel in zip(grid, panels, strict=True):
            for axis, (measure, label) in zip(row, measures, strict=True):
                _draw_groups(axis, panel, measure)
                if panel is panels[-1]:
                    axis.set_xlabel(label)
            row[0].set_yticks(range(len(panel.definitions)), _tick_labels(panel))
            row[0].set_ylim(len(panel.definitions) - 0.5, -0.5)
            row[0].set_title(f"{panel.title}, n = {panel.num_images} images", loc="left")
        for axis in grid[-1]:
            axis.set_xlim(left=0)
        handles, labels = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _draw_groups(axis: Axes, panel: GroupsPanel, measure: str) -> None:
    scale = 100 if measure.endswith("top1") else 1
    for group, label, color, marker, shift in _MARKERS:
        name = f"matched/{measure}/normal" if group == "matched" else f"{group}/{measure}"
        rows, values = [], []
        for row, found in enumerate(panel.estimates):
            if (estimate := found.get(name)) is None:
                continue
            rows.append(row + shift)
            values.append(scale * estimate.value)
            if estimate.low is not None and estimate.high is not None:
                ends = [scale * estimate.low, scale * estimate.high]
                axis.plot(ends, [row + shift] * 2, color=color, lw=1.4)
        axis.plot(values, rows, marker, color=color, ms=4, label=label)


def _tick_labels(panel: GroupsPanel) -> list[str]:
    pairs = zip(panel.definitions, panel.shares, strict=True)
    return [
        f"{DEFINITION_LABELS[definition]} ({100 * share:.3g} %)"
        if share
        else f"{DEFINITION_LABELS[definition]} (none)"
        for definition, share in pairs
    ]
