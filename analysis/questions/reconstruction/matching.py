"""Which normal patches are as flat as the outliers? Bins of equal pixel variance.

Flat patches are easy to predict, and outliers may sit on them. So patches are put into narrow bins
that hold equal numbers of outliers or fewer, and every bin's normal patches count as much as its
outliers.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

MATCHED_BINS = 32
OUTLIERS_PER_BIN = 5
WIDEST_BIN = 1.25
"""The largest variance in a bin over the smallest, about."""
FLAT = 1e-4
"""Variances below this share of the largest one count as none."""


class Matching(NamedTuple):
    """How well normal patches could be matched to outliers."""

    num_bins: int
    num_outliers: int
    """In bins that have normal patches too."""
    num_left_out: int
    num_normal: int
    """Normal patches in these bins."""


def variance_bins(
    variance: Float[np.ndarray, "n p"], is_outlier: Bool[np.ndarray, "n p"]
) -> Int[np.ndarray, "n p"]:
    """The bin of each patch; -1 beyond the outliers.

    Bins hold equal numbers of outliers at first. Where variances in a bin would differ by more than
    `WIDEST_BIN`, it is divided further, since normal patches crowd at one of its ends.
    """
    values = variance[is_outlier]
    num_bins = int(np.clip(len(values) // OUTLIERS_PER_BIN, 1, MATCHED_BINS))
    quantiles = np.quantile(values, np.linspace(0, 1, num_bins + 1)).astype(np.float32)
    quantiles[0], quantiles[-1] = values.min(), values.max()
    edges = _divided(np.unique(quantiles))
    bins = np.searchsorted(edges, variance, side="right") - 1
    bins[variance == edges[-1]] = max(len(edges) - 2, 0)
    bins[(variance < edges[0]) | (variance > edges[-1])] = -1
    return bins


def _divided(edges: Float[np.ndarray, " e"]) -> Float[np.ndarray, " f"]:
    """The edges, with others between them where one is many times the one before.

    What lies below the share `FLAT` of the largest one is not divided.
    """
    parts = [edges[:1]]
    for low, high in zip(np.maximum(edges[:-1], FLAT * edges[-1]), edges[1:], strict=True):
        count = int(np.ceil(np.log(high / low) / np.log(WIDEST_BIN))) if high > low else 0
        parts.append(np.geomspace(low, high, count + 1)[:-1] if count else edges[:0])
        parts.append(np.array([high]))
    return np.unique(np.concatenate(parts).astype(edges.dtype))


def matched_means(
    sums: Float[np.ndarray, "*k bins 2 2"],
) -> Float[np.ndarray, "*k 4"]:
    """Outliers' mean, matched normal mean, their quotient and difference (outlier minus normal).

    Args:
      sums: For each bin and group (normal, outlier): the number of patches, and a sum over them.
    """
    count, total = sums[..., 0], sums[..., 1]
    usable = (count > 0).all(axis=-1)
    weight = np.where(usable, count[..., 1], 0)
    means = total / np.where(count > 0, count, 1)
    whole = weight.sum(axis=-1)
    outlier = ratio((weight * means[..., 1]).sum(axis=-1), whole)
    normal = ratio((weight * means[..., 0]).sum(axis=-1), whole)
    return np.stack([outlier, normal, ratio(outlier, normal), outlier - normal], axis=-1)


def matching_of(sums: Float[np.ndarray, "n bins 2 2"]) -> Matching:
    """How many patches the sums of `matched_means` rest on."""
    count = sums[..., 0].sum(axis=0)
    usable = (count > 0).all(axis=-1)
    return Matching(
        len(count),
        int(count[usable, 1].sum()),
        int(count[~usable, 1].sum()),
        int(count[usable, 0].sum()),
    )


def ratio(above: Any, below: Any) -> Any:
    """A quotient of numbers or arrays; NaN where nothing is divided by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
