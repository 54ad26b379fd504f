"""How is the attention of a block drawn head by head? A row for each query. Sizes are in inches."""

import numpy as np
from matplotlib.figure import Figure

from regvit_jax.analysis.look.seen import Seen
from regvit_jax.analysis.look.view import EVEN, scale_end
from regvit_jax.analysis.plotting import show_image, show_plain_map, styled
from regvit_jax.analysis.plotting.placed import Placed
from regvit_jax.analysis.plotting.tokens import ATTENTION_MAP

_SIDE, _GAP, _MARGIN = 1.2, 0.08, 0.25
_HEAD, _NAME, _BAR = 0.85, 0.25, 0.75


def heads_picture(seen: Seen, place: int, name: str, block: int) -> Figure:
    """The photograph, and for each query the mean over the heads and every head.

    Args:
      seen: What a model made of photographs.
      place: Which of them.
      name: What it is called.
      block: Which the attention is of, from 0.
    """
    maps = seen.attention[place]
    heads = ["mean of heads", *(f"head {i}" for i in range(len(maps)))]
    shown = np.concatenate([maps.mean(axis=0, keepdims=True), maps])
    step = _SIDE + _GAP
    width = max(2 * _MARGIN + _NAME + (len(heads) + 1) * step, 6.0)
    with styled():
        page = Placed(width, _HEAD + len(seen.queries) * step + _BAR)
        page.text(_MARGIN, 0.3, f"{name}: attention in block {block}", size=11, weight="bold")
        page.text(_MARGIN, 0.5, seen.title, size=8.5)
        show_image(page.axes(_MARGIN, _HEAD, _SIDE, _SIDE), seen.pixels[place])
        end = scale_end([shown])
        for row, query in enumerate(seen.queries):
            for column, head in enumerate(heads):
                left = _MARGIN + _NAME + (column + 1) * step
                axes = page.axes(left, _HEAD + row * step, _SIDE, _SIDE)
                values = shown[column, row].reshape(seen.layout.grid)
                show_plain_map(axes, values, ATTENTION_MAP, end)
                if not row:
                    axes.set_title(head, size=7.5, pad=3)
                if not column:
                    axes.set_ylabel(query, size=7.5, labelpad=2)
        top = _HEAD + len(seen.queries) * step + 0.05
        page.colour_bar(
            (_MARGIN + step, top, min(4.0, width - step - 0.8)), ATTENTION_MAP, end, EVEN
        )
    return page.figure
