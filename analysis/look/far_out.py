"""Which patches of a photograph may be outlier tokens?

The rule of `regvit_jax.analysis.outliers.verdict` judges many images together: rare, far, apart,
isolated, grown. In one photograph a valley between the groups cannot be seen. What is far, rare,
isolated and grown is framed as a candidate.

Letters: l layers, n patches.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.outliers.measures import isolation
from regvit_jax.analysis.outliers.verdict import FAR, GROWTH, ISOLATED, MAX_SHARE


class FarOut(NamedTuple):
    """Patches of one photograph whose norms are far out."""

    layer: int
    """Where they are furthest out; without any, the last. Layer 0 enters the first block."""
    is_framed: Bool[np.ndarray, " n"]
    sentence: str


def far_out(ratios: Float[np.ndarray, "l n"], grid: tuple[int, int]) -> FarOut:
    """The patches to frame, from the layer where they are furthest out.

    Args:
      ratios: Norms in units of the median patch of the layer, before and after every block.
      grid: Rows and columns of the patches.
    """
    last = len(ratios) - 1
    far = (ratios >= FAR) & (ratios >= GROWTH * np.maximum(ratios[0], 1.0))
    is_group = (far.mean(axis=1) <= MAX_SHARE) & (np.nan_to_num(isolation(far, grid)) >= ISOLATED)
    if not is_group.any():
        nothing = np.zeros(ratios.shape[1], bool)
        reason = _without(ratios[last], far[last], float(ratios[0].max()))
        return FarOut(last, nothing, reason)
    layer = int(np.where(is_group, ratios.max(axis=1), 0.0).argmax())
    found = ratios[layer][far[layer]]
    where = "the last block" if layer == last else f"block {layer - 1}, where they are furthest out"
    return FarOut(layer, far[layer], _with(found, ratios.shape[1], where))


def after(layer: int) -> str:
    """A layer in words."""
    return f"after block {layer - 1}" if layer else "before block 0"


def _with(found: Float[np.ndarray, " m"], num_patches: int, where: str) -> str:
    low, high = f"{found.min():.1f}", f"{found.max():.1f}"
    size = high if low == high else f"{low} to {high}"
    verb = "is" if len(found) == 1 else "are"
    return (
        f"{len(found)} of {num_patches} patches {verb} far out: {size} times the median norm after "
        f"{where}."
    )


def _without(ratios: Float[np.ndarray, " n"], is_far: Bool[np.ndarray, " n"], before: float) -> str:
    largest = f"the largest norm is {ratios.max():.1f} times the median after the last block"
    if not is_far.any():
        pixels = f", {before:.1f} before the first" if ratios.max() >= FAR else ""
        return f"No patch is far out: {largest}{pixels}."
    share = f"{100 * is_far.mean():.0f} % of the patches reach {FAR} times the median norm"
    if is_far.mean() > MAX_SHARE:
        return f"{share}: too many for outlier tokens; large norms go with the content here."
    return f"{share}, but side by side: an object or a region rather than outlier tokens."
