"""What is shown of each photograph and model? The same for the picture and the page.

Letters: l layers, n patches, q queries.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from regvit_jax.analysis.look.colours import component_colours, matched
from regvit_jax.analysis.look.far_out import after, far_out
from regvit_jax.analysis.look.opened import Opened, Photograph
from regvit_jax.analysis.look.seen import Seen, see
from regvit_jax.analysis.plotting import round_up

MAX_LAYERS = 13
"""Norm maps in a strip; of deeper models, some layers are left out."""
MAX_QUERIES = 5
"""Attention maps of a model: CLS and four registers."""
NORM_UNIT = "norm, in units of the median patch of its layer"
EVEN = "attention, in multiples of even attention"
_SCALE_QUANTILE = 0.995  # one patch can be many times as large; the rest would be dark


class Map(NamedTuple):
    """A number for each patch."""

    title: str
    values: Float[np.ndarray, "gh gw"]


class View(NamedTuple):
    """One photograph as one model sees it."""

    title: str
    sentence: str
    """On the patches whose norms are far out."""
    pixels: UInt8[np.ndarray, "h w 3"]
    is_framed: Bool[np.ndarray, "gh gw"]
    norms: Map
    """In the layer where patches are furthest out, in units of the median patch."""
    colours: Float[np.ndarray, "gh gw 3"]
    attention: list[Map]
    """Mean over the heads of the last block, in multiples of even attention."""
    layers: list[Map]
    """Norms before and after the blocks, in units of the median patch of each layer."""


class Views(NamedTuple):
    """All of them, with the scales that they share."""

    names: list[str]
    """Names of the photographs."""
    views: list[list[View]]
    """By photograph, then by model."""
    norm_end: float
    """End of the scale of norms, in medians; it begins at 0."""
    attention_end: float
    """End of the scale of attention; it begins at 0."""


def see_all(photographs: Sequence[Photograph], models: Sequence[Opened]) -> Views:
    """Photographs through all models.

    Raises:
      InputError: If a photograph cannot be read.
    """
    return views_of(photographs, [see(model, photographs) for model in models])


def views_of(photographs: Sequence[Photograph], seen: Sequence[Seen]) -> Views:
    """What is shown of photographs and models."""
    colours: list[np.ndarray] = []
    for one in seen:
        found = component_colours(one.features)
        colours.append(matched(found, colours[0]) if colours else found)
    places = range(len(photographs))
    views = [
        [_view(one, i, found[i]) for one, found in zip(seen, colours, strict=True)] for i in places
    ]
    norms = [m.values for row in views for view in row for m in view.layers]
    weights = [m.values for row in views for view in row for m in view.attention]
    return Views(
        [photograph.name for photograph in photographs],
        views,
        scale_end(norms),
        scale_end(weights),
    )


def scale_end(maps: Iterable[np.ndarray]) -> float:
    """A round number above most values of maps, and at least 2: their medians are about 1."""
    values = np.concatenate([values.ravel() for values in maps])
    return round_up(max(2.0, float(np.quantile(values, _SCALE_QUANTILE))))


def _view(seen: Seen, place: int, colours: Float[np.ndarray, "n 3"]) -> View:
    grid = seen.layout.grid
    ratios = seen.ratios[place]
    found = far_out(ratios, grid)
    maps = seen.attention[place].mean(axis=0)
    last = len(ratios) - 1
    kept: list[int] = np.unique(
        np.linspace(0, last, min(MAX_LAYERS, last + 1)).round().astype(int)
    ).tolist()
    where = "the last block" if found.layer == last else f"block {found.layer - 1}"
    return View(
        title=seen.title,
        sentence=found.sentence,
        pixels=seen.pixels[place],
        is_framed=found.is_framed.reshape(grid),
        norms=Map(f"norms after {where}", ratios[found.layer].reshape(grid)),
        colours=colours.reshape(*grid, 3),
        attention=[
            Map(name, values.reshape(grid))
            for name, values in zip(seen.queries[:MAX_QUERIES], maps, strict=False)
        ],
        layers=[Map(after(i) if not i else f"{i - 1}", ratios[i].reshape(grid)) for i in kept],
    )
