"""How much of CLS's attention do outlier patches get?

Even attention gives every patch the same: outliers that are 2 % of all patches would get 2 % of
what the patches get. "times_even" says how many times as much they do get.

Letters: n images, p patches.
"""

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Resampled

MASSES = ("mass", "share_of_patch_mass", "times_even")


def outlier_masses(
    is_outlier: Bool[np.ndarray, "n p"], maps: Float[np.ndarray, "n p"], bootstrap: Bootstrap
) -> dict[str, Resampled]:
    """The numbers of `MASSES`, those that are defined.

    Args:
      is_outlier: Of the patches.
      maps: CLS's attention on them, mean over the heads.
      bootstrap: Of the images.
    """
    parts = (is_outlier, maps * is_outlier, maps)
    features = np.stack([part.mean(axis=1, dtype=np.float64) for part in parts], axis=1)
    features[:, 1:] *= maps.shape[1]
    found = bootstrap.resampled(features, _masses)
    named = zip(MASSES, found, strict=True)
    return {name: number for name, number in named if np.isfinite(number.value)}


def _masses(means: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    """Mass, part of what patches get, and that over the outliers' share; NaN where undefined."""
    share, mass, all_mass = np.moveaxis(means, -1, 0)
    part = np.where(all_mass > 0, mass / np.maximum(all_mass, 1e-12), np.nan)
    times = np.where(share > 0, part / np.maximum(share, 1e-12), np.nan)
    return np.stack([mass, part, times], axis=-1)
