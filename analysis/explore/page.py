"""How do records become a page? Templates, and the numbers as JSON and text in script elements."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.analysis.explore.record import Record
from regvit_jax.analysis.look.page import image_uri
from regvit_jax.analysis.plotting import coloured
from regvit_jax.analysis.plotting.tokens import (
    ATTENTION_MAP,
    CLS,
    NORM_MAP,
    OUTLIERS,
    PATCHES,
    REGISTERS,
)
from regvit_jax.analysis.templates import filled
from regvit_jax.config import ViTConfig
from regvit_jax.tokens import TokenLayout


class Model(NamedTuple):
    """What the page knows of a model."""

    title: str
    layout: TokenLayout
    config: ViTConfig
    blocks: list[int]
    """Whose attention it holds, from 0."""


def page(
    names: Sequence[str],
    models: Sequence[Model],
    records: Sequence[Record],
    levels: int,
    texts: Sequence[str],
) -> str:
    """The explorer as HTML that needs no other file and no network.

    Args:
      names: Of the photographs.
      models: In the order of the records.
      records: Of every model, all photographs.
      levels: Of the square root of a weight.
      texts: The records' numbers.
    """
    count = len(names)
    meta = {
        "levels": levels,
        "photographs": list(names),
        "models": [_meta(model) for model in models],
        "maps": {"attention": _stops(ATTENTION_MAP), "norm": _stops(NORM_MAP)},
        "colours": {"cls": CLS, "register": REGISTERS, "patch": PATCHES, "outlier": OUTLIERS},
    }
    uris = [image_uri(record.pixels, "jpeg") for record in records]
    values = {
        "names": names,
        "models": models,
        "meta": meta,
        "colours": meta["colours"],
        "pictures": [uris[i * count : (i + 1) * count] for i in range(len(models))],
        "texts": [texts[i * count : (i + 1) * count] for i in range(len(models))],
        "precision": f"{100 / levels:.1g}",
        "heads": max(model.config.num_heads for model in models),
        "num_blocks": max(model.config.depth for model in models),
    }
    return filled("explore", values)


def _meta(model: Model) -> dict[str, Any]:
    return {
        "title": model.title,
        "grid": model.layout.grid,
        "cls": model.layout.has_cls,
        "registers": model.layout.num_registers,
        "depth": model.config.depth,
        "blocks": model.blocks,
        "heads": model.config.num_heads,
    }


def _stops(colours: str) -> list[list[int]]:
    """The 256 colours of a map."""
    return coloured(np.linspace(0, 1, 256)[None], colours)[0].tolist()
