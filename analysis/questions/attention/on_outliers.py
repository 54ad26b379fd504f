"""How much of CLS's attention do outlier patches get?

What an outlier is depends on the norms of all images, so norms and maps wait in a file until the
pass over the images is over. A patch's even share of the attention is one over the patches'
number: outlier patches that are 2 % of all patches would get 2 % of what the patches get.

Letters: b and n images, p patches.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.engine.store import ColumnStore
from regvit_jax.analysis.outliers.definitions import is_above, thresholds
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate


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

    def masses(self, definition: str) -> Float[np.ndarray, "n 2"]:
        """Of every image: CLS's attention on the outliers of a definition, and on all patches."""
        norms, maps = self._columns.read("norms"), self._columns.read("maps")
        return _masses(is_above(norms, thresholds(norms)[definition]), maps)

    def summarise(self, bootstrap: Bootstrap) -> dict[str, OutlierMass]:
        """The attention on outliers by every definition."""
        norms, maps = self._columns.read("norms"), self._columns.read("maps")
        return {
            name: _mass(is_above(norms, cut), maps, cut, bootstrap)
            for name, cut in thresholds(norms).items()
        }


def outlier_part(means: Float[np.ndarray, "... 2"]) -> Float[np.ndarray, "... 1"]:
    """Of mean masses: the outliers' part of the attention that patches get."""
    return means[..., :1] / np.maximum(means[..., 1:], 1e-12)


def _masses(is_outlier, maps) -> Float[np.ndarray, "n 2"]:
    parts = (maps * is_outlier, maps)
    return np.stack([part.sum(axis=1, dtype=np.float64) for part in parts], axis=1)


def _mass(is_outlier, maps, cut: float, bootstrap: Bootstrap) -> OutlierMass:
    masses = _masses(is_outlier, maps)
    features = np.column_stack([is_outlier.mean(axis=1), masses])
    share, mass, part = bootstrap.statistic(features, _share_mass_and_part)
    return OutlierMass(cut, share, mass, part if masses[:, 1].any() else None)


def _share_mass_and_part(means: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    return np.concatenate([means[..., :2], outlier_part(means[..., 1:])], axis=-1)
