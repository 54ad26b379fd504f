"""How is a photograph drawn as models see it? One figure: two rows of panels a model.

Sizes are in inches. The panels are placed by hand: finding places for a hundred panels takes
Matplotlib longer than the network.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from regvit_jax.analysis.look.view import EVEN, NORM_UNIT, Map, View, Views
from regvit_jax.analysis.plotting import (
    hide_ticks,
    outline_patches,
    show_image,
    show_plain_map,
    styled,
)
from regvit_jax.analysis.plotting.placed import Placed
from regvit_jax.analysis.plotting.tokens import ATTENTION_MAP, NORM_MAP

_SIDE, _GAP, _MARGIN = 1.3, 0.1, 0.25
_TITLE, _LABEL, _BAR = 0.5, 0.24, 0.75
_BEFORE = 3  # panels before those of attention


def picture(views: Views, place: int) -> Figure:
    """One photograph through all models."""
    row = views.views[place]
    panels = max(_BEFORE + len(view.attention) for view in row)
    width = max(2 * _MARGIN + panels * (_SIDE + _GAP) - _GAP, 8.4)
    inner = width - 2 * _MARGIN
    small = min(_SIDE, (inner - (_layers(row) - 1) * _GAP / 2) / _layers(row))
    band = _TITLE + _LABEL + _SIDE + _LABEL + small + 0.15
    height = 0.45 + len(row) * band + _BAR
    with styled():
        page = Placed(width, height)
        page.text(_MARGIN, 0.3, views.names[place], size=12, weight="bold")
        top = 0.45
        for view in row:
            _draw_view(page, view, views, top, small)
            top += band
        _draw_bars(page, views, top + 0.12, inner)
    return page.figure


def _layers(row: Sequence[View]) -> int:
    return max(len(view.layers) for view in row)


def _draw_view(page: Placed, view: View, views: Views, top: float, small: float) -> None:
    page.text(_MARGIN, top + 0.22, view.title, size=10, weight="bold")
    page.text(_MARGIN, top + 0.4, view.sentence, size=8.5)
    top += _TITLE + _LABEL
    cells = [(int(r), int(c)) for r, c in np.argwhere(view.is_framed)]
    photo, norms, colours = (page.axes(_left(i), top, _SIDE, _SIDE) for i in range(_BEFORE))
    show_image(photo, view.pixels)
    outline_patches(photo, cells, view.pixels.shape[0] / view.is_framed.shape[0])
    _draw_map(norms, view.norms, NORM_MAP, views.norm_end)
    outline_patches(norms, cells)
    show_colours(colours, view.colours)
    _title(photo, "far-out patches framed" if cells else "input")
    _title(colours, "features (PCA)")
    for i, item in enumerate(view.attention):
        axes = page.axes(_left(_BEFORE + i), top, _SIDE, _SIDE)
        _draw_map(axes, item, ATTENTION_MAP, views.attention_end)
        axes.set_title(f"attention of {item.title}" if not i else item.title, size=7.5, pad=3)
    top += _SIDE + _LABEL
    for i, item in enumerate(view.layers):
        axes = page.axes(_MARGIN + i * (small + _GAP / 2), top, small, small)
        _draw_map(axes, item, NORM_MAP, views.norm_end)
        axes.set_title(f"after block {item.title}" if i == 1 else item.title, size=6.5, pad=2)


def show_colours(axes: Axes, colours) -> None:
    """Patches in colours of their own."""
    axes.imshow(colours, interpolation="nearest")
    hide_ticks(axes)


def _left(place: int) -> float:
    return _MARGIN + place * (_SIDE + _GAP)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, size=7.5, pad=3)


def _draw_map(axes: Axes, item: Map, colours: str, end: float) -> None:
    show_plain_map(axes, item.values, colours, end)
    _title(axes, item.title)


def _draw_bars(page: Placed, views: Views, top: float, inner: float) -> None:
    """One scale for all norms, one for all attention."""
    ends = ((NORM_MAP, views.norm_end, NORM_UNIT), (ATTENTION_MAP, views.attention_end, EVEN))
    for i, (colours, end, label) in enumerate(ends):
        page.colour_bar((_MARGIN + 0.52 * i * inner, top, 0.44 * inner), colours, end, label)
