"""How is a comparison drawn? One small panel a number, one line a model."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.plotting import is_leftmost, new_figure, styled
from regvit_jax.analysis.plotting.palette import SERIES
from regvit_jax.analysis.statistics.bootstrap import MIN_IMAGES, ZERO, Estimate

_COLUMNS = 2
_LEAST_RANGE = 1e-3  # of an axis, in units of the numbers on it


class NumberPanel(NamedTuple):
    """One headline number."""

    question: str
    title: str
    is_share: bool
    values: Mapping[str, Estimate]
    """By model's label."""
    differences: Mapping[str, Estimate]
    """To the first model."""


def headlines_figure(panels: Sequence[NumberPanel], titles: Mapping[str, str]) -> Figure:
    """All numbers on one page; the models keep their lines and colours.

    Args:
      panels: The numbers.
      titles: Of all models, by label, in their order.
    """
    rows = -(-len(panels) // _COLUMNS)
    with styled():
        figure = new_figure(
            10.5, (0.62 + 0.22 * len(titles)) * rows + 0.9, "Headline numbers side by side"
        )
        axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharey=True).ravel()
        for axis, panel in zip(axes, panels, strict=False):
            _draw(axis, panel, titles)
        for axis in axes[len(panels) :]:
            axis.remove()
        figure.supxlabel(
            "Dots: values with 95 % intervals. Right of a panel: difference to the first model, "
            "paired; bold where its interval leaves out zero "
            f"and rests on at least {MIN_IMAGES} images.",
            fontsize=8,
        )
    return figure


def _draw(axis: Axes, panel: NumberPanel, titles: Mapping[str, str]) -> None:
    scale = 100.0 if panel.is_share else 1.0
    for place, label in enumerate(titles):
        estimate, color = panel.values.get(label), SERIES[place % len(SERIES)]
        if estimate is None:
            axis.text(0.01, place, "not measured", transform=_row(axis), fontsize=7, va="center")
            continue
        axis.plot(scale * estimate.value, place, "o", color=color, ms=5, clip_on=False)
        if estimate.low is not None and estimate.high is not None:
            axis.plot(
                (scale * estimate.low, scale * estimate.high), (place,) * 2, color=color, lw=1.6
            )
        if label in panel.differences:
            _write_difference(axis, place, panel.differences[label], scale)
    axis.set_ylim(len(titles) - 0.5, -0.5)
    axis.margins(x=0.12)
    axis.set_xlim(*_limits(*axis.get_xlim(), panel.is_share))
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.locator_params(axis="x", nbins=6)
    unit = " (%)" if panel.is_share else ""
    named = panel.title.lower().startswith(panel.question)  # "LOST: ..." says it already
    title = panel.title if named else f"{panel.question}: {panel.title}"
    axis.set_title(title + unit, loc="left", fontsize=8.5)
    axis.tick_params(labelsize=8)
    if is_leftmost(axis):
        axis.set_yticks(range(len(titles)), list(titles.values()))


def _write_difference(axis: Axes, place: int, estimate: Estimate, scale: float) -> None:
    text, weight = _signed(estimate.value, scale), "normal"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{_signed(estimate.low, scale)}, {_signed(estimate.high, scale)}]"
        weight = "bold" if estimate.leaves_out_zero else "normal"
    axis.text(1.01, place, text, transform=_row(axis), fontsize=7.5, va="center", fontweight=weight)


def _limits(low: float, high: float, is_share: bool) -> tuple[float, float]:
    """The ends of an axis: no share below 0, and no range so narrow that it shows rounding."""
    middle, least = (low + high) / 2, _LEAST_RANGE * max(abs(low), abs(high), 1.0)
    if high - low < least:
        low, high = middle - least / 2, middle + least / 2
    return (max(low, 0.0) if is_share else low), high


def _signed(value: float, scale: float) -> str:
    """Three digits of the number times a scale; what only rounding keeps from zero is zero."""
    return "0" if abs(value) <= ZERO else f"{scale * value:+.3g}"


def _row(axis: Axes):
    """Across the panel in parts of its width, down it in its own rows."""
    return axis.get_yaxis_transform()
