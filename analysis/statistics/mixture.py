"""Are the norms two populations or one? A mixture of two Gaussians in the logarithm against one.

The likelihood is that of a fine histogram of the log norms: thousands of patches share a bin, and
the fit takes no longer for more images. A larger BIC gain speaks for two components; it counts
patches as independent, which those of one image are not, so that it is too large. Two components
also fit a skewed distribution better than one does: without a separation of 2 or more the
components overlap, and nothing is apart.  Reference: Ashman, Bird and Zepf 1994 (D > 2).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_BINS = 512
_STEPS = 500
_TOLERANCE = 1e-9
# Start values for the share of the upper component: outliers are rare, content is not.
_STARTS = (0.02, 0.1, 0.5)


class Mixture(NamedTuple):
    """The best two components."""

    bic_gain: float
    """BIC of one component minus BIC of two."""
    separation: float
    """Distance of the means in units of the components' root mean square width."""
    upper_share: float
    """Weight of the component of larger norms."""
    upper_ratio: float
    """Its centre, in units of the median norm."""


def fit_mixture(norms: Float[np.ndarray, " p"]) -> Mixture | None:
    """Two components fitted by expectation maximisation; None where all norms are equal."""
    logs = np.log(np.maximum(norms.astype(np.float64), 1e-12))
    low, high = logs.min(), logs.max()
    if not high > low:
        return None
    counts, edges = np.histogram(logs, _BINS, (low, high))
    x = 0.5 * (edges[:-1] + edges[1:])
    width = edges[1] - edges[0]
    mean = (counts @ x) / counts.sum()
    variance = counts @ np.square(x - mean) / counts.sum() + width**2 / 12
    alone = counts @ _log_density(x, mean, variance)
    best = max((_maximise(counts, x, width, share) for share in _STARTS), key=lambda fit: fit[0])
    likelihood, weights, means, variances = best
    penalty = 3 * np.log(counts.sum())  # five parameters against two
    upper = int(np.argmax(means))
    return Mixture(
        bic_gain=float(2 * (likelihood - alone) - penalty),
        separation=float(abs(means[1] - means[0]) / np.sqrt(variances.mean())),
        upper_share=float(weights[upper]),
        upper_ratio=float(np.exp(means[upper]) / np.median(norms)),
    )


def _maximise(counts, x, width: float, upper_share: float):
    """Log likelihood, weights, means and variances, from one start."""
    cumulative = np.cumsum(counts) / counts.sum()
    is_upper = cumulative > 1 - upper_share
    is_upper[-1] = True
    groups = np.stack([~is_upper, is_upper]) * counts
    before = -np.inf
    for _ in range(_STEPS):
        weights, means, variances = _moments(groups, x, width)
        logs = np.log(weights)[:, None] + _log_density(x, means[:, None], variances[:, None])
        total = np.logaddexp(logs[0], logs[1])
        likelihood = counts @ total
        if likelihood - before <= _TOLERANCE * abs(likelihood):
            break
        before = likelihood
        groups = np.exp(logs - total) * counts
    return likelihood, weights, means, variances


def _moments(groups, x, width: float):
    sizes = np.maximum(groups.sum(axis=1), 1e-9)
    means = groups @ x / sizes
    variances = (groups * np.square(x - means[:, None])).sum(axis=1) / sizes
    # A component is no narrower than a bin: one value alone would have an infinite density.
    return sizes / sizes.sum(), means, np.maximum(variances, width**2 / 12)


def _log_density(x, mean, variance):
    return -0.5 * (np.square(x - mean) / variance + np.log(2 * np.pi * variance))
