"""What does a notebook show of photographs in a line? The functions of `regvit_jax`'s top level.

Letters: b images, l layers, r registers, gh gw patch grid.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.look.figures.heads import heads_picture
from regvit_jax.analysis.look.figures.picture import picture
from regvit_jax.analysis.look.opened import Opened, open_models, open_photographs
from regvit_jax.analysis.look.seen import see
from regvit_jax.analysis.look.view import see_all
from regvit_jax.analysis.plotting import Figure
from regvit_jax.errors import InputError
from regvit_jax.shapes import shapes


class TokenNorms(NamedTuple):
    """L2 norms of the tokens: before the first block, then after each block."""

    cls: Float[np.ndarray, "b l"] | None
    """None in a model without a CLS token."""
    registers: Float[np.ndarray, "b l r"]
    patches: Float[np.ndarray, "b l gh gw"]

    def __repr__(self) -> str:
        return shapes(self)


def look(images: Any, models: Any, index: int = 0) -> Figure:
    """A photograph through one or several models: norms, attention, features, outliers framed.

    A notebook shows the figure; `figure.savefig("look.png")` writes it.

    Args:
      images: A path, a Pillow image or an array of uint8; or several.
      models: A checkpoint's directory or what `from_torch` returned; or several.
      index: Which of several photographs is drawn, from 0. Colours and scales are those of all.

    Raises:
      InputError: If a photograph or a model cannot be opened.

    Example:
      >>> regvit_jax.look("photo.jpg", ["runs/reg0", "runs/reg4"])  # doctest: +SKIP
    """
    photographs = open_photographs(images)
    _check_index(index, len(photographs))
    return picture(see_all(photographs, open_models(models)), index)


def norms(images: Any, model: Any) -> TokenNorms:
    """Norms of all tokens of photographs, in every layer.

    Args:
      images: As for `look`.
      model: A checkpoint's directory or what `from_torch` returned.

    Raises:
      InputError: If a photograph or the model cannot be opened.

    Example:
      >>> regvit_jax.norms("photo.jpg", "runs/reg4").patches[0, -1]  # doctest: +SKIP
    """
    seen = see(_one(model), open_photographs(images))
    layout, found = seen.layout, seen.norms
    patches = found[..., layout.patches]
    return TokenNorms(
        found[..., 0] if layout.has_cls else None,
        found[..., layout.registers],
        patches.reshape(*patches.shape[:2], *layout.grid),
    )


def show_attention(images: Any, model: Any, block: int = -1, index: int = 0) -> Figure:
    """Where CLS and the registers of a model look in a photograph, head by head.

    Without a CLS token, the mean over the patches stands in its place.

    Args:
      images: As for `look`.
      model: As for `norms`.
      block: From 0; negative ones count from the end.
      index: Which of several photographs is drawn, from 0.

    Raises:
      InputError: If a photograph or the model cannot be opened, or there is no such block.

    Example:
      >>> regvit_jax.show_attention("photo.jpg", "runs/reg4", block=2)  # doctest: +SKIP
    """
    photographs = open_photographs(images)
    _check_index(index, len(photographs))
    opened = _one(model)
    seen = see(opened, [photographs[index]], block)
    return heads_picture(seen, 0, photographs[index].name, block % opened.model.config.depth)


def _one(model: Any) -> Opened:
    found = open_models(model)
    if len(found) > 1:
        raise InputError(f"Expected one model, got {len(found)}; `regvit_jax.look` takes several.")
    return found[0]


def _check_index(index: int, count: int) -> None:
    if not 0 <= index < count:
        raise InputError(f"index is from 0 to {count - 1} for {count} photographs, got {index}.")
