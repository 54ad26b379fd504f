"""Which hidden units write outliers? Those that are active where an outlier patch is.

Reference: Jiang et al., Vision Transformers Don't Need Trained Registers, arXiv:2506.08010,
algorithm 1; the rule "released" does what the authors' code does otherwise.

Letters: b images, l blocks, t tokens, p patches, m units of an MLP.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.streams import over_median
from regvit_jax.batches import Batch
from regvit_jax.config import ShiftRule
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout


class Where(NamedTuple):
    """What an outlier is, and who may have written it."""

    block: int
    """After which block norms are taken."""
    cut_ratio: float
    """An outlier's norm, in units of the median of its image's patches, is this or more."""
    top_block: int
    """The last one whose units are looked at."""


def kept_scores(images: Images, preprocess: Preprocess, where: Where, rule: ShiftRule) -> Keep:
    """Adds up how active every unit is at outliers, over all images.

    Folded: "sum", (l, m), of the images' means over their outliers; "images", how many have any.
    """

    def reduce(trace: ViTTrace, layout: TokenLayout) -> tuple[Array, Array]:
        hidden = [block.hidden for block in trace.blocks[: where.top_block + 1] if block]
        at = trace.blocks[where.block]
        assert at is not None
        is_outlier = over_median(at.tokens, layout) >= where.cut_ratio
        counted = np.zeros((1, layout.num_tokens), bool)
        counted[:, layout.patches] = True
        if rule == "released" and layout.cls is not None:
            counted[:, layout.cls] = True
        return activity(jnp.stack(hidden, axis=1), is_outlier & counted, rule)

    def fold(folded: Any, batch: Batch, tree: Any) -> dict[str, np.ndarray]:
        del batch
        active, has_any = (np.asarray(x, np.float64) for x in tree)
        before = folded or {"sum": 0.0, "images": 0.0}
        return {
            "sum": before["sum"] + active.sum(axis=0),
            "images": np.asarray(before["images"] + has_any.sum()),
        }

    blocks = (*range(where.top_block + 1), where.block)
    key = ("activity at outliers", where, rule)
    return Keep(key, images, preprocess, reduce, lambda b, t: {}, fold, blocks=blocks)


def activity(
    hidden: Float[Array, "b l t m"], is_outlier: Bool[Array, "b t"], rule: ShiftRule
) -> tuple[Float[Array, "b l m"], Bool[Array, " b"]]:
    """Every unit's mean over the outliers of each image, 0 without any; and who has any.

    The paper averages activations, the released code their absolute values.
    """
    values = jnp.abs(hidden) if rule == "released" else hidden
    mask = is_outlier.astype(values.dtype)
    total = jnp.einsum("bltm,bt->blm", values, mask, precision="highest")
    count = mask.sum(axis=1)
    return total / jnp.maximum(count, 1.0)[:, None, None], count > 0


def scores_of(
    folded: dict[str, np.ndarray], num_images: int, rule: ShiftRule
) -> Float[np.ndarray, "l m"]:
    """Every unit's score: the mean over all images, or ("released") those with an outlier."""
    count = folded["images"] if rule == "released" else num_images
    return folded["sum"] / max(float(count), 1.0)


def ranked(scores: Float[np.ndarray, "l m"]) -> Int[np.ndarray, "units 2"]:
    """Block and number of every unit, the most active first."""
    order = np.argsort(-scores, axis=None, kind="stable")
    return np.stack(np.unravel_index(order, scores.shape), axis=1)


def as_mask(units: Sequence[Any] | Int[np.ndarray, "k 2"], shape: tuple[int, int]) -> np.ndarray:
    """True at some units, (blocks, units of each)."""
    mask = np.zeros(shape, bool)
    mask[tuple(np.array(units, int).reshape(-1, 2).T)] = True
    return mask
