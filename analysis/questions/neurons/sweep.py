"""How many units must be shifted? Every number is tried, with controls, in one pass.

Letters: b images, c conditions (the untouched network first), l blocks, m units of an MLP.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Int

from regvit_jax.analysis.discovery.features import Feature, patch_features
from regvit_jax.analysis.discovery.lost import lost
from regvit_jax.analysis.engine.extract import Forward
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.streams import kept_norms, over_median
from regvit_jax.analysis.questions.neurons.units import Where, as_mask
from regvit_jax.config import ShiftRule
from regvit_jax.edits import Edit, shift_units, zero_units
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

UNTOUCHED, SHIFTED, RANDOM, ZEROED = "untouched", "shifted", "random_shifted", "zeroed"


class Tried(NamedTuple):
    """One condition of the sweep."""

    name: str
    num_units: int
    mask: Bool[np.ndarray, "l m"]


def conditions_of(
    order: Int[np.ndarray, "units 2"],
    numbers: Sequence[int],
    shape: tuple[int, int],
    seed: int,
) -> list[Tried]:
    """What is tried: the most active units shifted, as many random ones shifted, and silence.

    Args:
      order: Units that may be chosen, the most active first.
      numbers: How many.
      shape: Blocks, and units of each.
      seed: Of the random units, which are drawn from the same blocks.
    """
    drawn = np.random.default_rng((seed, 2)).permutation(order)
    some = sorted({min(number, len(order)) for number in numbers})
    return [
        Tried(name, number, as_mask(units[:number], shape))
        for name, units in ((SHIFTED, order), (RANDOM, drawn), (ZEROED, order))
        for number in some
    ]


def kept_sweep(
    images: Images,
    preprocess: Preprocess,
    conditions: Sequence[Tried],
    where: Where,
    rule: ShiftRule,
    added: int,
    feature: Feature | None,
) -> Keep:
    """Keeps of every condition: "predicted", the head's largest output; "share" of patches that are
    outliers; "largest" norm of a patch over the median; and "boxes" where a feature is named.
    """
    blocks = (where.block, -1)

    def compute(forward: Forward, given: Any) -> dict[str, Array]:
        layout = forward.layout

        def judge(edit: Edit | None) -> dict[str, Array]:
            seen = layout if edit is None else edit.layout(layout)
            trace = forward.trace if edit is None else forward.run(edit, blocks)
            return _judged(trace, seen, where, feature)

        moved = lax.map(lambda m: judge(shift_units(layout, m, added, rule)), given["moved"])
        silent = lax.map(lambda m: judge(zero_units(m)), given["silent"])
        parts = [jax.tree.map(lambda x: x[None], judge(None)), moved, silent]
        return jax.tree.map(lambda *x: jnp.concatenate(x).swapaxes(0, 1), *parts)

    masks = {
        "moved": np.stack([c.mask for c in conditions if c.name != ZEROED]),
        "silent": np.stack([c.mask for c in conditions if c.name == ZEROED]),
    }
    tried = tuple((c.name, c.num_units) for c in conditions)
    key = ("test-time registers", tried, where, rule, added, feature)
    return Keep(key, images, preprocess, compute=compute, given=masks, blocks=blocks)


def _judged(
    trace: ViTTrace, layout: TokenLayout, where: Where, feature: Feature | None
) -> dict[str, Array]:
    at = trace.blocks[where.block]
    assert at is not None
    ratios = over_median(at.tokens, layout)[:, layout.patches]
    found = {
        "predicted": trace.logits.argmax(axis=-1).astype(jnp.int32),
        "share": jnp.mean(ratios >= where.cut_ratio, axis=1, dtype=jnp.float32),
        "largest": ratios.max(axis=1),
    }
    if feature is not None:
        features = patch_features(trace, layout, len(trace.blocks) - 1, feature)
        found["boxes"] = lost(features, layout.grid).boxes.astype(jnp.int32)
    return found


def kept_maps(images: Images, preprocess: Preprocess) -> Keep:
    """Keeps where CLS looks in the last block, mean over heads, as the column "map"."""
    return Keep(("map of CLS",), images, preprocess, cls_map, blocks=(-1,), is_needed=False)


def cls_map(trace: ViTTrace, layout: TokenLayout) -> dict[str, Array]:
    """Attention of CLS on the patches; without CLS, that of the mean token."""
    last = trace.blocks[-1]
    assert last is not None
    attn = last.attn[:, :, layout.cls] if layout.has_cls else last.attn
    return {"map": attn[..., layout.patches].mean(axis=(1, 2))}


def kept_shifted(
    images: Images,
    preprocess: Preprocess,
    units: Bool[np.ndarray, "l m"],
    rule: ShiftRule,
    added: int,
) -> Keep:
    """Keeps of the shifted network what `keep_norms` and `kept_maps` do of the untouched one."""

    def compute(forward: Forward, given: Any) -> dict[str, Array]:
        edit = shift_units(forward.layout, given, added, rule)
        layout, trace = edit.layout(forward.layout), forward.run(edit)
        return kept_norms(trace, layout) | cls_map(trace, layout)

    places = tuple(map(tuple, np.argwhere(units).tolist()))
    key = ("shifted", places, rule, added)
    return Keep(key, images, preprocess, compute=compute, given=units, blocks=())
