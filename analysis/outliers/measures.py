"""What is special about outliers and registers? Numbers of arrays, image by image.

Letters: n images, p patches, d channels.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.outliers.valley import largest_neighbour

NUM_CHANNELS = 3
"""Largest channels that are looked at, as for massive activations (arXiv:2402.17762)."""


class Massive(NamedTuple):
    """How much of outliers' length lies in a few channels."""

    share: Float[np.ndarray, " n"]
    """Part of the outliers' squared norm in their three largest channels, by image; NaN without."""
    common: float
    """Share of these channels that are among the three commonest ones of all images."""
    channels: tuple[int, ...]
    """The commonest ones."""


def number(is_outlier: Bool[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
    """Outliers of every image."""
    return is_outlier.sum(axis=1).astype(np.float64)


def isolation(
    is_outlier: Bool[np.ndarray, "n p"], grid: tuple[int, int]
) -> Float[np.ndarray, " n"]:
    """Share of an image's outliers none of whose four neighbours is one; NaN without any.

    Reference: arXiv:2309.16588 describes outliers as single patches in even regions.
    """
    beside = largest_neighbour(is_outlier.astype(np.float32), grid) > 0
    return _ratio((is_outlier & ~beside).sum(axis=1), is_outlier.sum(axis=1))


def value_ratio(
    values: Float[np.ndarray, "n p d"], is_outlier: Bool[np.ndarray, "n p"]
) -> Float[np.ndarray, " n"]:
    """Mean norm of the outliers' value vectors over that of the other patches; NaN without.

    A sink that is a no-op has small values.  Reference: arXiv:2606.08105 (abstract).
    """
    norms = np.linalg.norm(values.astype(np.float64), axis=-1)
    inside = _ratio((norms * is_outlier).sum(axis=1), is_outlier.sum(axis=1))
    outside = _ratio((norms * ~is_outlier).sum(axis=1), (~is_outlier).sum(axis=1))
    return _ratio(inside, outside)


def massive(tokens: Float[np.ndarray, "n p d"], is_outlier: Bool[np.ndarray, "n p"]) -> Massive:
    """The outliers' largest channels, and whether they are the same in all images.

    Reference: Sun et al., Massive Activations in Large Language Models, arXiv:2402.17762.
    """
    squares = np.square(tokens[is_outlier].astype(np.float64))
    largest = np.argsort(-squares, axis=1, kind="stable")[:, :NUM_CHANNELS]
    shares = np.zeros(is_outlier.shape)
    inside = np.take_along_axis(squares, largest, axis=1).sum(axis=1)
    shares[is_outlier] = _ratio(inside, squares.sum(axis=1))
    counts = np.bincount(largest.ravel(), minlength=tokens.shape[-1])
    commonest = np.argsort(-counts, kind="stable")[:NUM_CHANNELS]
    of_images = _ratio(shares.sum(axis=1), is_outlier.sum(axis=1))
    common = float(counts[commonest].sum() / counts.sum()) if counts.sum() else float("nan")
    return Massive(of_images, common, tuple(commonest.tolist()))


def effective_rank(tokens: Float[np.ndarray, "n p d"]) -> Float[np.ndarray, " n"]:
    """Exponential of the entropy of the singular values' shares, of every image's patches.

    Reference: Roy and Vetterli, The Effective Rank, EUSIPCO 2007.
    """
    values = np.linalg.svd(tokens.astype(np.float64), compute_uv=False)
    shares = values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.exp(-(shares * logs).sum(axis=1))


def cls_cosine(
    cls_token: Float[np.ndarray, "n d"], patches: Float[np.ndarray, "n p d"]
) -> Float[np.ndarray, " n"]:
    """Mean cosine of CLS and an image's patches, before or after the last LayerNorm as given.

    Reference: arXiv:2602.08626 (abstract).
    """
    first, others = cls_token.astype(np.float64), patches.astype(np.float64)
    products = np.einsum("nd,npd->np", first, others)
    lengths = np.linalg.norm(first, axis=-1)[:, None] * np.linalg.norm(others, axis=-1)
    return (products / np.maximum(lengths, 1e-12)).mean(axis=1)


def _ratio(above, below):
    """NaN where nothing is below."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
