"""Do outliers hold less, or only otherwise? A linear probe of its own for each group.

One probe for all patches takes another length, or another place in the space, for a loss: tokens
that hold the same and are five times as long had four times the error. So outliers and normal
patches are each read by least squares on tokens of their own group, on as many of each.

Letters: m and n images, k drawn patches, p patches, d channels, v pixel values of a patch.
"""

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.questions.reconstruction.equations import NormalEquations
from regvit_jax.analysis.questions.reconstruction.probes import (
    Dense,
    apply_dense,
    normalised_patches,
)
from regvit_jax.preprocess import Preprocess

TOKENS_PER_CHANNEL = 3
"""Tokens that a group's probe learns from, at the least, in units of their channels."""
RIDGE = 1e-3


def own_probes(
    training: Columns, is_outlier: Bool[np.ndarray, "m p"], preprocess: Preprocess, seed: int
) -> tuple[Dense, Dense] | None:
    """The probes of normal patches and of outliers; None where there are too few to learn from.

    Args:
      training: What `training_tokens` keeps.
      is_outlier: Of all patches of the same images.
      preprocess: Of the model.
      seed: Of the choice of normal patches.
    """
    marked = np.take_along_axis(is_outlier, training.read("cells"), axis=1)
    count, dim = int(marked.sum()), training.mapped("tokens").shape[-1]
    if not TOKENS_PER_CHANNEL * dim <= count <= marked.size / 2:
        return None
    normal = np.random.default_rng(seed).permutation(np.flatnonzero(~marked))[:count]
    chosen = [np.zeros(marked.size, bool), marked.ravel()]
    chosen[0][normal] = True
    groups = [NormalEquations({}), NormalEquations({})]
    start = 0
    for tokens, pixels in training.blocks("tokens", "pixels"):
        targets = np.asarray(normalised_patches(pixels, preprocess))
        x, y = (rows.reshape(-1, rows.shape[-1]) for rows in (tokens, targets))
        for group, mask in enumerate(chosen):
            here = mask[start : start + len(x)]
            if here.any():
                groups[group] = groups[group].plus(x[here], y[here])
        start += len(x)
    return groups[0].solve(RIDGE), groups[1].solve(RIDGE)


def own_errors(
    probes: tuple[Dense, Dense],
    judged: Columns,
    is_outlier: Bool[np.ndarray, "n p"],
    preprocess: Preprocess,
) -> Float[np.ndarray, "n p"]:
    """Summed squared error of every judged patch, read by the probe of its own group."""
    rows, start = [], 0
    for tokens, pixels in judged.blocks("tokens", "pixels", rows=32):
        targets = normalised_patches(pixels, preprocess)
        both = [np.asarray(((apply_dense(p, tokens) - targets) ** 2).sum(axis=-1)) for p in probes]
        rows.append(np.where(is_outlier[start : start + len(tokens)], both[1], both[0]))
        start += len(tokens)
    return np.concatenate(rows)
