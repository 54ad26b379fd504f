"""How do the views become one page? Small maps that the browser enlarges, so that they wrap."""

import base64
import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from regvit_jax.analysis.look.view import EVEN, NORM_UNIT, Map, View, Views
from regvit_jax.analysis.plotting import coloured
from regvit_jax.analysis.plotting.tokens import ATTENTION_MAP, NORM_MAP, OUTLIERS
from regvit_jax.analysis.templates import filled

_STOPS = 9  # of a colour bar


def page(views: Views) -> str:
    """The views as HTML that needs no other file and no network."""
    bars = [
        (NORM_UNIT, NORM_MAP, views.norm_end),
        (EVEN, ATTENTION_MAP, views.attention_end),
    ]
    photographs = [
        (name, [_Shown(view, views) for view in row])
        for name, row in zip(views.names, views.views, strict=True)
    ]
    scales = [(label, _gradient(colours), f"{end:g}") for label, colours, end in bars]
    values = {"photographs": photographs, "bars": scales, "outliers": OUTLIERS}
    return filled("look", values)


def image_uri(pixels: UInt8[np.ndarray, "h w 3"], kind: Literal["png", "jpeg"]) -> str:
    """A picture within the page."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=90)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


class _Shown:
    """A view, its maps as pictures of a pixel for each patch."""

    def __init__(self, view: View, views: Views) -> None:
        self.title, self.sentence = view.title, view.sentence
        self.photograph = image_uri(view.pixels, "jpeg")
        self.colours = image_uri(np.rint(255 * view.colours).astype(np.uint8), "png")
        self.norms = _tile(view.norms, NORM_MAP, views.norm_end)
        self.attention = [_tile(m, ATTENTION_MAP, views.attention_end) for m in view.attention]
        self.layers = [_tile(m, NORM_MAP, views.norm_end) for m in view.layers]
        self.grid = view.is_framed.shape
        self.framed = [(int(r), int(c)) for r, c in np.argwhere(view.is_framed)]


def _tile(item: Map, colours: str, end: float) -> tuple[str, str]:
    """Title and picture of a map."""
    return item.title, image_uri(coloured(item.values / end, colours), "png")


def _gradient(colours: str) -> str:
    """A colour map as CSS writes it."""
    stops = coloured(np.linspace(0, 1, _STOPS)[None], colours)[0]
    return ", ".join(f"rgb({r} {g} {b})" for r, g, b in stops)
