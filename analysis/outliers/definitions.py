"""The published definitions of an outlier token, and how many patches each one finds."""

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

ROUNDING = 1e-6
"""Relative difference of two norms in float32 that may be rounding."""


def thresholds(norms: Float[np.ndarray, "n p"]) -> dict[str, float]:
    """The published definitions of an outlier, as norms above which a patch is one."""
    pooled = norms.astype(np.float64).ravel()
    median, q98, q995 = np.quantile(pooled, [0.5, 0.98, 0.995])
    return {
        "quantile_98": float(q98),
        "quantile_99_5": float(q995),
        "mean_plus_3sd": float(pooled.mean() + 3 * pooled.std()),
        "3_x_median": float(3 * median),
        "absolute_150": 150.0,
    }


def is_above(norms: Float[np.ndarray, "*b"], cut: float) -> Bool[np.ndarray, "*b"]:
    """Which norms lie above a cut; those that equal it but for rounding do not.

    Patches that look alike have equal norms, and a quantile or a multiple of the median may be one
    of these. Batches of another size round differently.
    """
    return norms > cut * (1 + ROUNDING)


def is_below(norms: Float[np.ndarray, "*b"], cut: float) -> Bool[np.ndarray, "*b"]:
    """Which norms lie below a cut; those that equal it but for rounding do not."""
    return norms < cut * (1 - ROUNDING)


def is_tautological(definition: str) -> bool:
    """Whether a definition finds the same share in any data."""
    return definition.startswith("quantile")


def shares(
    norms: Float[np.ndarray, "n p"], cuts: dict[str, float], bootstrap: Bootstrap
) -> dict[str, Estimate]:
    """The share of patches above each threshold; the thresholds stay fixed in the resamples."""
    return {
        name: bootstrap.share(is_above(norms, cut).mean(axis=1, dtype=np.float64))
        for name, cut in cuts.items()
    }
