"""How sure are shares and quantiles of all patches, if patches of one image resemble one another?

Where few images hold most of a share, resampling images promises too much: it held the truth in
70 % of the cases for 20 images. The interval here is Clopper's and Pearson's for a sample as large
as the spread between images says, with t of as many degrees of freedom as images hold most of the
share, less one.  Reference: Korn and Graubard, Survey Methodology 24 (1998).

A quantile's interval holds the values that have its share above them, as far as the share's
interval can tell.  Reference: Francisco and Fuller, Annals of Statistics 19 (1991).

Letters: n images, p patches, k columns, e edges.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

COVERAGE = 0.95
NUM_EDGES = 400
MIN_BEYOND = 2
"""Images, times the share beyond a quantile: fewer cannot tell it (measured coverage: 0.87)."""

Ends = tuple[float, float] | None


def share_ends(shares: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "2 k"]:
    """Lower and upper ends of the mean over the images of each column; NaN where none can be told.

    Args:
      shares: Of every image, in [0, 1].
    """
    from scipy.stats import beta, norm, t

    values = np.asarray(shares, np.float64)
    n, mean = len(values), values.mean(axis=0)
    variance = values.var(axis=0, ddof=1) / n if n > 1 else np.zeros_like(mean)
    is_known = (variance > 0) & (mean > 0) & (mean < 1)
    half = (1 - COVERAGE) / 2
    safe = np.where(is_known, mean, 0.5)
    size = safe * (1 - safe) / np.where(is_known, variance, 1.0)
    effective = values.sum(axis=0) ** 2 / np.maximum(np.square(values).sum(axis=0), 1e-300)
    is_whole = ((values == 0) | (values == 1)).all(axis=0)  # images alike in all patches: n coins
    quantile = t.ppf(1 - half, np.maximum(effective - 1, 1))
    size = np.where(is_whole, n, size * (norm.ppf(1 - half) / quantile) ** 2)
    count = safe * size
    low = beta.ppf(half, count, size - count + 1)
    high = beta.ppf(1 - half, count + 1, np.maximum(size - count, 1e-9))
    return np.where(is_known, [low, high], np.nan)


def quantile_ends(values: Float[np.ndarray, "n p"], levels: Sequence[float]) -> list[Ends]:
    """The ends of the quantiles of all values; None where there are too few images to tell.

    Args:
      values: Of every patch of every image.
      levels: Between 0 and 1.
    """
    edges = _edges(np.sort(values, axis=None))
    ends = share_ends(_shares_above(values, edges))
    least = MIN_BEYOND / len(values)
    return [
        _quantile_ends(edges, ends, level) if least <= min(level, 1 - level) + 1e-9 else None
        for level in levels
    ]


def _quantile_ends(edges, ends, level: float) -> Ends:
    """Where the share above stops being surely larger, and where it begins to be surely smaller."""
    low, high = ends - (1 - level)
    larger, smaller = np.flatnonzero(low > 0), np.flatnonzero(high < 0)
    if not len(larger) or not len(smaller):
        return None
    return _crossing(edges, low, int(larger[-1])), _crossing(edges, high, int(smaller[0]) - 1)


def _crossing(edges, values, place: int) -> float:
    """Where a line from an edge to the next one is zero; the outer edge where one is not known."""
    first, second = values[place : place + 2]
    if np.isnan(first) or np.isnan(second):
        return float(edges[place if np.isnan(second) else place + 1])
    return float(edges[place] + (edges[place + 1] - edges[place]) * first / (first - second))


def _edges(ordered):
    """Some of the values, closer to one another at both ends."""
    places = np.linspace(-1, 1, NUM_EDGES) * np.log(max(len(ordered), 2))
    ranks = len(ordered) / (1 + np.exp(-places))
    return np.unique(ordered[np.unique(ranks.astype(int).clip(0, len(ordered) - 1))])


def _shares_above(values, edges) -> Float[np.ndarray, "n e"]:
    n, size = len(values), len(edges) + 1
    bins = np.searchsorted(edges, values, side="left") + size * np.arange(n)[:, None]
    counts = np.bincount(bins.ravel(), minlength=n * size).reshape(n, size)
    return counts[:, :0:-1].cumsum(axis=1)[:, ::-1] / values.shape[1]
