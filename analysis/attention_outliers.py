"""How much of CLS's attention do outlier patches get?

What an outlier is depends on the norms of all images, so norms and maps wait in a file until the
pass over the images is over. A patch's even share of the attention is one over the patches'
number: outlier patches that are 2 % of all patches would get 2 % of what the patches get.

Letters: b and n images, p patches.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from analysis.bootstrap import Bootstrap, Estimate
from analysis.outliers import thresholds
from analysis.store import ColumnStore


class OutlierMass(NamedTuple):
    """The attention on the outliers of one definition."""

    cut: float
    """Norm above which a patch is one, pooled over all patches of all images."""
    share_of_patches: Estimate
    mass: Estimate
    """Of all of CLS's attention in the chosen block, mean over heads and images."""
    share_of_patch_mass: Estimate | None
    """Of the attention that patches get; None where they get none."""


class OutlierMassStore:
    """Norms and CLS maps of all images, in temporary files."""

    def __init__(self, num_patches: int) -> None:
        self._columns = ColumnStore(
            {"norms": (num_patches, np.float32), "maps": (num_patches, np.float32)}
        )
        self._columns.__enter__()

    def add(self, norms: Float[np.ndarray, "b p"], maps: Float[np.ndarray, "b p"]) -> None:
        """Takes in a batch: norms of the patches, and the mean over the heads of CLS's map."""
        self._columns.append({"norms": norms, "maps": maps})

    def close(self) -> None:
        """Removes the files."""
        self._columns.close()

    def masses(self, definition: str) -> Float[np.ndarray, " n"]:
        """Of every image: CLS's attention on the outliers of a definition."""
        norms = self._columns.read("norms")
        is_outlier = norms > thresholds(norms)[definition]
        return (self._columns.read("maps") * is_outlier).sum(axis=1, dtype=np.float64)

    def summarise(self, bootstrap: Bootstrap) -> dict[str, OutlierMass]:
        """The attention on outliers by every definition."""
        norms, maps = self._columns.read("norms"), self._columns.read("maps")
        return {
            name: _mass(norms > cut, maps, cut, bootstrap)
            for name, cut in thresholds(norms).items()
        }


def _mass(is_outlier, maps, cut: float, bootstrap: Bootstrap) -> OutlierMass:
    features = np.stack(
        [is_outlier.mean(axis=1), (maps * is_outlier).sum(axis=1), maps.sum(axis=1)], axis=1
    )
    share, mass = bootstrap.statistic(features[:, :2], lambda means: means)
    relative = None
    if features[:, 2].any():
        relative = bootstrap.statistic(features, _ratio)[0]
    return OutlierMass(cut, share, mass, relative)


def _ratio(means):
    """Of means (..., 3): the outliers' part of the patches' attention."""
    return (means[..., 1] / np.maximum(means[..., 2], 1e-12))[..., None]
