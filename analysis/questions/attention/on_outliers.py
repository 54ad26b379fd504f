"""How much of CLS's attention do outlier patches get?

A patch's even share of the attention is one over the patches'
number: outlier patches that are 2 % of all patches would get 2 % of what the patches get.

Letters: b and n images, p patches.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from regvit_jax.analysis.outliers.labels import Labelled, labelled
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate


class OutlierMass(NamedTuple):
    """The attention on the outliers of one definition."""

    cut: float
    """Norm above which a patch is one, pooled over all patches of all images."""
    share_of_patches: Estimate
    mass: Estimate
    """Share of all of CLS's attention in the chosen block, mean over heads and images."""
    share_of_patch_mass: Estimate | None
    """Share of the attention that patches get; None where they get none."""


def outlier_masses(
    norms: Float[np.ndarray, "n p"], maps: Float[np.ndarray, "n p"], bootstrap: Bootstrap
) -> dict[str, OutlierMass]:
    """The attention on the outliers of every definition.

    Args:
      norms: Of the patches after the last block.
      maps: CLS's attention on them, mean over the heads.
      bootstrap: Of the images.
    """
    return {by.definition: _mass(by, maps, bootstrap) for by in labelled(norms, bootstrap)}


def masses(
    is_outlier: Bool[np.ndarray, "n p"], maps: Float[np.ndarray, "n p"]
) -> Float[np.ndarray, "n 2"]:
    """CLS's attention on the outliers of every image, and on all its patches."""
    parts = (maps * is_outlier, maps)
    return np.stack([part.sum(axis=1, dtype=np.float64) for part in parts], axis=1)


def outlier_part(means: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 1"]:
    """From mean masses, the outliers' part of the attention that patches get."""
    return means[..., :1] / np.maximum(means[..., 1:], 1e-12)


def _mass(by: Labelled, maps: Float[np.ndarray, "n p"], bootstrap: Bootstrap) -> OutlierMass:
    found = masses(by.is_outlier, maps)
    features = np.column_stack([by.is_outlier.mean(axis=1), found])
    share, mass, part = bootstrap.statistic(features, _share_mass_and_part)
    return OutlierMass(by.cut, share, mass, part if found[:, 1].any() else None)


def _share_mass_and_part(means: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    return np.concatenate([means[..., :2], outlier_part(means[..., 1:])], axis=-1)
