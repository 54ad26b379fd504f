"""Do outlier patches look like their neighbours?

If a network keeps global notes in patches that tell it nothing by themselves, outliers should sit
where the image repeats itself. So the patch convolution's output, before positions, is compared
by its cosine with the up to four neighbours; each (patch, direction) is one sample, labelled by
the norm which that patch has after the last block.

Samples are counted in 65,536 bins of equal angle, which are at most 5e-5 wide, and finest near 1,
where cosines crowd: medians are off by less than a bin, and everything else by far less (the tests
say how much). Intervals come from per-image counts in 128 bins.

Reference: arXiv:2309.16588, figure 5a.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.engine.subjects import Images
from regvit_jax.analysis.outliers.labels import Labelled
from regvit_jax.analysis.outliers.streams import l2_norm
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Resampled
from regvit_jax.model import ViTTrace
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

GROUPS = ("normal", "outlier")
DENSITY_AT = np.linspace(-1.0, 1.0, 800)

_BINS = 1 << 16
_EDGES = -np.cos(np.linspace(0.0, np.pi, _BINS + 1))
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2
_COARSE = 128
_REACH = 9  # bandwidths beyond which a Gaussian is below 1e-17
_EPSILON = 1e-8  # torch.nn.functional.cosine_similarity's


class Similarities(NamedTuple):
    """The similarities of outliers and normal patches, by one definition of an outlier."""

    tensor: str
    """Whose norms tell outliers: "last", "normed" or "strongest"."""
    by: Labelled
    num_samples: tuple[int, int]
    """Pairs of a normal patch and a neighbour, and of an outlier and a neighbour."""
    numbers: dict[str, Resampled]
    """Mean and median of both groups, their differences, and the AUC; without what is undefined."""
    density: Float[np.ndarray, "2 points"]
    """Density of both groups at `DENSITY_AT`; zeros for an empty group."""


def neighbour_cosines(images: Images, preprocess: Preprocess) -> Keep:
    """Keeps the cosines of all pairs of neighbours ("cosines"), and their bins ("bins").

    For 14 x 14 patches they are 2 kB an image on disk.
    """
    return Keep(
        ("neighbours",),
        images,
        preprocess,
        _pairs,
        columns=lambda batch, pairs: pair_columns(*map(np.asarray, pairs)),
        blocks=(),
    )


def _pairs(trace: ViTTrace, layout: TokenLayout) -> tuple[Array, Array]:
    """Cosine of each patch with the one to its right, and with the one below it."""
    patches = trace.patch_embed.astype(jnp.float32)  # before positions
    grid = patches.reshape(patches.shape[0], *layout.grid, patches.shape[-1])
    return _cosine(grid[:, :, :-1], grid[:, :, 1:]), _cosine(grid[:, :-1], grid[:, 1:])


def pair_columns(
    right: Float[np.ndarray, "n gh _"], below: Float[np.ndarray, "n _ gw"]
) -> dict[str, np.ndarray]:
    """The columns of some images, from the cosines to the right and below."""
    cosines = flat_pairs(right, below)
    return {"cosines": cosines, "bins": _bin_of(cosines).astype(np.uint16)}


def _cosine(first, second):
    lengths = l2_norm(first) * l2_norm(second)
    return jnp.sum(first * second, axis=-1) / jnp.maximum(lengths, _EPSILON)


def measure_similarity(
    neighbours: Columns,
    labels: Mapping[str, Iterable[Labelled]],
    grid: tuple[int, int],
    bootstrap: Bootstrap,
) -> list[Similarities]:
    """The similarities by every tensor and definition of an outlier.

    Args:
      neighbours: What `neighbour_cosines` keeps.
      labels: By tensor: the outliers of the same images by every definition.
      grid: Rows and columns of patches.
      bootstrap: Of the images.
    """
    whole, coarse_of_bin, edges = _count_all(neighbours)
    drawn_whole = whole.drawn(bootstrap)
    found = []
    for tensor, definitions in labels.items():
        for by in definitions:
            is_outlier = by.is_outlier.reshape(-1, *grid)
            outlier = _count_outliers(neighbours, is_outlier, coarse_of_bin, len(edges) - 1)
            groups = (whole.without(outlier), outlier)
            drawn = outlier.drawn(bootstrap) if outlier.total else np.zeros_like(drawn_whole)
            numbers = _numbers(groups, (drawn_whole - drawn, drawn), edges)
            density = np.stack([_density(group) for group in groups])
            totals = (groups[0].total, groups[1].total)
            found.append(Similarities(tensor, by, totals, numbers, density))
    return found


def flat_pairs(
    right: Shaped[np.ndarray, "n gh _"], below: Shaped[np.ndarray, "n _ gw"]
) -> Shaped[np.ndarray, "n pairs"]:
    """Numbers of all pairs of neighbours side by side: to the right, then below."""
    num_images = right.shape[0]
    return np.concatenate([right.reshape(num_images, -1), below.reshape(num_images, -1)], axis=1)


def outlier_ends(is_outlier: Bool[np.ndarray, "n gh gw"]) -> Int[np.ndarray, "n pairs"]:
    """How many of the two patches of each pair are outliers, in the order of `flat_pairs`.

    A pair is two samples, one with the label of either patch.
    """
    label = is_outlier.astype(np.int64)
    return flat_pairs(label[:, :, :-1] + label[:, :, 1:], label[:, :-1] + label[:, 1:])


def auc(
    normal: Float[np.ndarray, "*k bins"], outlier: Float[np.ndarray, "*k bins"]
) -> Float[np.ndarray, "*k"]:
    """How often an outlier's sample exceeds a normal one's, from counts in bins; ties are halves.

    NaN where one of the groups is empty.
    """
    below = np.cumsum(normal, axis=-1) - normal
    wins = (outlier * (below + normal / 2)).sum(axis=-1)
    return _ratio(wins, normal.sum(axis=-1) * outlier.sum(axis=-1))


def density(
    counts: Float[np.ndarray, " bins"],
    centres: Float[np.ndarray, " bins"],
    sd: float,
    points: Float[np.ndarray, " points"],
) -> Float[np.ndarray, " points"]:
    """The Gaussian kernel density of samples counted in bins, with Scott's bandwidth.

    Args:
      counts: Samples in each bin.
      centres: Of the bins.
      sd: Standard deviation of the samples (n - 1 degrees of freedom).
      points: Where the density is asked for.

    Reference: scipy.stats.gaussian_kde.
    """
    total = counts.sum()
    if total < 2 or sd <= 0:
        return np.zeros_like(points)
    bandwidth = sd * total**-0.2
    held = counts > 0
    centres, weights = centres[held], counts[held] / total
    ends = np.searchsorted(centres, [points - _REACH * bandwidth, points + _REACH * bandwidth])
    values = []
    for point, first, last in zip(points, *ends, strict=True):
        away = (point - centres[first:last]) / bandwidth
        values.append(np.exp(-0.5 * away**2) @ weights[first:last])
    return np.array(values) / (bandwidth * np.sqrt(2 * np.pi))


class _Counts(NamedTuple):
    """Counts and sums of the samples of one group."""

    pooled: Int[np.ndarray, " bins"]
    per_image: Float[np.ndarray, "n coarse"]
    sums: Float[np.ndarray, " n"]
    sum_squares: float

    def without(self, other: "_Counts") -> "_Counts":
        """Those of the other group."""
        return _Counts(
            self.pooled - other.pooled,
            self.per_image - other.per_image,
            self.sums - other.sums,
            self.sum_squares - other.sum_squares,
        )

    def drawn(self, bootstrap: Bootstrap) -> Float[np.ndarray, "replicates _"]:
        """Means over the images of every resample: of the counts, and of the sums."""
        features = np.concatenate([self.per_image, self.sums[:, None]], axis=1)
        # Counts are whole numbers: what a difference of float32 products leaves of them is not.
        drawn = bootstrap.means(features).astype(np.float64) * len(self.sums)
        drawn[:, :-1] = np.round(drawn[:, :-1])
        return drawn

    @property
    def total(self) -> int:
        return int(self.pooled.sum())


def _bin_of(cosines) -> Int[np.ndarray, "..."]:
    """The bin of each cosine; rounding may have put it just outside [-1, 1]."""
    angles = np.arccos(-cosines.astype(np.float64).clip(-1, 1))
    return (angles * (_BINS / np.pi)).astype(np.int64).clip(0, _BINS - 1)


def _count_all(neighbours: Columns) -> tuple[_Counts, Int[np.ndarray, " bins"], Any]:
    """Counts of all samples; which coarse bin each bin belongs to, and the coarse bins' edges."""
    pooled = np.zeros(_BINS, np.int64)
    for (bins,) in neighbours.blocks("bins"):
        pooled += 2 * np.bincount(bins.ravel(), minlength=_BINS)
    coarse_of_bin, edges = _equal_shares(pooled)
    per_image, sums, sum_squares = [], [], 0.0
    for cosines, bins in neighbours.blocks("cosines", "bins"):
        exact = cosines.astype(np.float64)
        sums.append(2 * exact.sum(axis=1))
        sum_squares += 2 * float(np.square(exact).sum())
        rows, num_coarse = len(bins), len(edges) - 1
        place = np.arange(rows)[:, None] * num_coarse + coarse_of_bin[bins]
        counts = 2 * np.bincount(place.ravel(), minlength=rows * num_coarse)
        per_image.append(counts.reshape(rows, num_coarse).astype(np.float32))
    counted = _Counts(pooled, np.concatenate(per_image), np.concatenate(sums), sum_squares)
    return counted, coarse_of_bin, edges


def _count_outliers(neighbours: Columns, is_outlier, coarse_of_bin, num_coarse: int) -> _Counts:
    """Counts of the outliers' samples; only pairs with an outlier are looked at."""
    pooled, per_image, sums, sum_squares = np.zeros(_BINS), [], [], 0.0
    start = 0
    for cosines, bins in neighbours.blocks("cosines", "bins"):
        rows = len(bins)
        ends = outlier_ends(is_outlier[start : start + rows])
        image, pair = np.nonzero(ends)
        weight, found = ends[image, pair].astype(np.float64), bins[image, pair]
        exact = cosines[image, pair].astype(np.float64)
        pooled += np.bincount(found, weight, _BINS)
        place = image * num_coarse + coarse_of_bin[found]
        counts = np.bincount(place, weight, rows * num_coarse)
        per_image.append(counts.reshape(rows, num_coarse).astype(np.float32))
        sums.append(np.bincount(image, weight * exact, rows))
        sum_squares += float(weight @ exact**2)
        start += rows
    return _Counts(
        pooled.astype(np.int64), np.concatenate(per_image), np.concatenate(sums), sum_squares
    )


def _equal_shares(counts):
    """Which coarse bin each fine bin belongs to, and the edges of the coarse ones.

    Coarse bins hold equal shares of the samples, so that they are fine where the samples are.
    """
    cumulative = np.cumsum(counts)
    targets = np.arange(1, _COARSE) / _COARSE * cumulative[-1]
    inner = np.unique(np.searchsorted(cumulative, targets) + 1)
    starts = np.concatenate([[0], inner[inner < _BINS]])
    coarse_of_bin = np.searchsorted(starts, np.arange(_BINS), side="right") - 1
    return coarse_of_bin, _EDGES[np.append(starts, _BINS)]


def _numbers(groups: tuple[_Counts, _Counts], drawn, edges) -> dict[str, Resampled]:
    """Means, medians, differences and AUC, each with its resampled values."""
    numbers = {}
    for group, resampled, name in zip(groups, drawn, GROUPS, strict=True):
        if not group.total:
            continue
        means = _ratio(resampled[:, -1], resampled[:, :-1].sum(axis=-1))
        numbers[f"mean_{name}"] = Resampled(float(group.sums.sum() / group.total), means)
        medians = np.array([_median(row, edges) for row in resampled[:, :-1]])
        median = _median(group.pooled.astype(np.float64), _EDGES)
        numbers[f"median_{name}"] = Resampled(median, medians)
    if all(group.total for group in groups):
        for kind in ("mean", "median"):
            normal, outlier = numbers[f"{kind}_normal"], numbers[f"{kind}_outlier"]
            numbers[f"{kind}_difference"] = Resampled(
                outlier.value - normal.value, outlier.samples - normal.samples
            )
        value = float(auc(*(group.pooled.astype(np.float64) for group in groups)))
        numbers["auc"] = Resampled(value, auc(*(resampled[:, :-1] for resampled in drawn)))
    return numbers


def _median(counts, edges) -> float:
    """The median of a histogram, interpolated within its bin; NaN if it is empty."""
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    if cumulative[-1] <= 0:
        return float("nan")
    half = cumulative[-1] / 2
    place = int(np.searchsorted(cumulative, half, side="left"))
    if cumulative[place] == half:  # between two samples, perhaps with empty bins between theirs
        upper = int(np.searchsorted(cumulative, half, side="right")) - 1
        return float((edges[place] + edges[upper]) / 2)
    inside = (half - cumulative[place - 1]) / counts[place - 1]
    return float(edges[place - 1] + inside * (edges[place] - edges[place - 1]))


def _density(group: _Counts):
    total = group.total
    mean = group.sums.sum() / max(total, 1)
    variance = (group.sum_squares - total * mean**2) / max(total - 1, 1)
    sd = float(np.sqrt(max(variance, 0.0)))
    return density(group.pooled.astype(np.float64), _CENTRES, sd, DENSITY_AT)


def _ratio(above, below):
    """A quotient; NaN where nothing is divided by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
