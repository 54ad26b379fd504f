"""Do outlier patches look like their neighbours?

If a network keeps global notes in patches that tell it nothing by themselves, outliers should sit
where the image repeats itself. So the patch convolution's output, before positions, is compared
by its cosine with the up to four neighbours; each (patch, direction) is one sample, labelled by
the norm which that patch has after the last block.

Samples are counted in 65,536 bins of equal angle, which are at most 5e-5 wide, and finest near 1,
where cosines crowd: medians are off by less than a bin, and everything else by far less (the tests
say how much). Intervals come from per-image counts in 256 bins.

Reference: arXiv:2309.16588, figure 5a.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from analysis.bootstrap import Bootstrap, Estimate, Resampled
from analysis.outliers import shares, thresholds
from analysis.store import ColumnStore
from regvit_jax.model import ViTTrace
from regvit_jax.tokens import TokenLayout

TENSORS = ("last", "normed")
"""Where norms are taken: after the last block, or after the last LayerNorm (the study's labels)."""
GROUPS = ("normal", "outlier")
DENSITY_AT = np.linspace(0.0, 1.0, 400)

_BINS = 1 << 16
_EDGES = -np.cos(np.linspace(0.0, np.pi, _BINS + 1))
_CENTRES = (_EDGES[1:] + _EDGES[:-1]) / 2
_COARSE = 256
_EPSILON = 1e-8  # torch.nn.functional.cosine_similarity's


class Neighbours(NamedTuple):
    """What is kept of a batch."""

    right: Float[Array, "b gh gw-1"]
    """Cosine of each patch with the one to its right."""
    below: Float[Array, "b gh-1 gw"]
    """Cosine of each patch with the one below it."""
    last: Float[Array, "b n"]
    """Norms of the patches after the last block."""
    normed: Float[Array, "b n"]
    """Norms of the patches after the last LayerNorm."""


class Labelled(NamedTuple):
    """The similarities of outliers and normal patches, by one definition of an outlier."""

    tensor: str
    definition: str
    threshold: float
    share: Estimate
    """Of the patches that are outliers."""
    num_patches: tuple[int, int]
    """Normal patches and outliers."""
    num_samples: tuple[int, int]
    """Pairs of a normal patch and a neighbour, and of an outlier and a neighbour."""
    numbers: dict[str, Resampled]
    """Mean and median of both groups, their differences, and the AUC; without what is undefined."""
    density: Float[np.ndarray, "2 points"]
    """Of both groups at `DENSITY_AT`; zeros for an empty group."""


@dataclasses.dataclass(frozen=True)
class SimilaritySummary:
    """All that is reported on one model."""

    num_images: int
    grid: tuple[int, int]
    labelled: list[Labelled]
    """By tensor and definition."""

    def of(self, tensor: str, definition: str) -> Labelled:
        """The entry of one tensor and definition."""
        (found,) = (x for x in self.labelled if (x.tensor, x.definition) == (tensor, definition))
        return found


def neighbour_cosines(trace: ViTTrace, layout: TokenLayout) -> Neighbours:
    """Similarity of each patch to its neighbours, and what it is labelled by."""
    block = trace.blocks[-1]
    assert block is not None
    patches = trace.patch_embed.astype(jnp.float32)
    grid = patches.reshape(patches.shape[0], *layout.grid, patches.shape[-1])
    return Neighbours(
        right=_cosine(grid[:, :, :-1], grid[:, :, 1:]),
        below=_cosine(grid[:, :-1], grid[:, 1:]),
        last=_l2(block.tokens[:, layout.patches]),
        normed=_l2(trace.normed[:, layout.patches]),
    )


def _cosine(first, second):
    lengths = _l2(first) * _l2(second)
    return jnp.sum(first * second, axis=-1) / jnp.maximum(lengths, _EPSILON)


def _l2(tokens):
    return jnp.sqrt(jnp.sum(jnp.square(tokens.astype(jnp.float32)), axis=-1))


class SimilarityCollector:
    """Collects the neighbours of one model's patches, in temporary files.

    For 14 x 14 patches they are 3 kB an image on disk.
    """

    reduce = staticmethod(neighbour_cosines)

    def __init__(self, layout: TokenLayout, folder: Path | None = None) -> None:
        self.layout = layout
        rows, cols = layout.grid
        widths = {
            "right": rows * (cols - 1),
            "below": (rows - 1) * cols,
            "last": layout.num_patches,
            "normed": layout.num_patches,
        }
        self.store = ColumnStore({n: (w, np.float32) for n, w in widths.items()}, folder)

    def __enter__(self) -> "SimilarityCollector":
        self.store.__enter__()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self.store.__exit__(kind, error, traceback)

    @property
    def num_images(self) -> int:
        return self.store.num_rows

    def add(self, reduced: Neighbours) -> None:
        """Takes in one batch."""
        self.store.append(reduced._asdict())

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cosines to the right and below, (rows, gh, gw - 1) and (rows, gh - 1, gw), by blocks."""
        rows, cols = self.layout.grid
        for right, below in self.store.blocks("right", "below"):
            yield right.reshape(-1, rows, cols - 1), below.reshape(-1, rows - 1, cols)


def summarise_similarity(collector: SimilarityCollector, bootstrap: Bootstrap) -> SimilaritySummary:
    """Everything that is reported on one model's neighbours."""
    coarse_of_bin, coarse_edges = _equal_shares(_pooled_counts(collector))
    labelled = []
    for tensor in TENSORS:
        norms = collector.store.read(tensor)
        cuts = thresholds(norms)
        found = shares(norms, cuts, bootstrap)
        for definition, cut in cuts.items():
            counts = _count(collector, norms > cut, coarse_of_bin)
            num_outliers = int((norms > cut).sum())
            labelled.append(
                Labelled(
                    tensor=tensor,
                    definition=definition,
                    threshold=cut,
                    share=found[definition],
                    num_patches=(norms.size - num_outliers, num_outliers),
                    num_samples=(int(counts.pooled[0].sum()), int(counts.pooled[1].sum())),
                    numbers=_numbers(counts, coarse_edges, bootstrap),
                    density=np.stack([_density(counts, group) for group in (0, 1)]),
                )
            )
    return SimilaritySummary(collector.num_images, collector.layout.grid, labelled)


def samples_of(
    is_outlier: Bool[np.ndarray, "n gh gw"],
    right: Float[np.ndarray, "n gh gw-1"],
    below: Float[np.ndarray, "n gh-1 gw"],
) -> tuple[Float[np.ndarray, "n samples"], Bool[np.ndarray, "n samples"]]:
    """The cosine of each (patch, direction) of every image, and whether the patch is an outlier.

    A pair of neighbours counts twice, once with the label of either side.
    """
    cosines = (right, right, below, below)
    labels = (
        *(is_outlier[:, :, :-1], is_outlier[:, :, 1:]),
        *(is_outlier[:, :-1], is_outlier[:, 1:]),
    )
    num_images = right.shape[0]
    return (
        np.concatenate([c.reshape(num_images, -1) for c in cosines], axis=1),
        np.concatenate([label.reshape(num_images, -1) for label in labels], axis=1),
    )


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
    values = [np.exp(-0.5 * ((point - centres) / bandwidth) ** 2) @ weights for point in points]
    return np.array(values) / (bandwidth * np.sqrt(2 * np.pi))


class _Counts(NamedTuple):
    """Counts and sums of the samples of both groups (normal, outlier)."""

    pooled: Int[np.ndarray, "2 bins"]
    per_image: Float[np.ndarray, "n 2 coarse"]
    sums: Float[np.ndarray, "n 2"]
    sum_squares: Float[np.ndarray, " 2"]


def _bin_of(cosines):
    """The bin of each cosine; rounding may have put it just outside [-1, 1]."""
    angles = np.arccos(-cosines.astype(np.float64).clip(-1, 1))
    return (angles * (_BINS / np.pi)).astype(np.int64).clip(0, _BINS - 1)


def _pooled_counts(collector: SimilarityCollector) -> Int[np.ndarray, " bins"]:
    counts = np.zeros(_BINS, np.int64)
    for pair in collector.blocks():
        for cosines in pair:
            counts += np.bincount(_bin_of(cosines).ravel(), minlength=_BINS)
    return counts


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


def _count(collector: SimilarityCollector, is_outlier, coarse_of_bin) -> _Counts:
    num_coarse = int(coarse_of_bin[-1]) + 1
    pooled, per_image, sums = np.zeros((2, _BINS), np.int64), [], []
    sum_squares, start = np.zeros(2), 0
    for right, below in collector.blocks():
        stop = start + right.shape[0]
        labels = is_outlier[start:stop].reshape(-1, *collector.layout.grid)
        cosines, label = samples_of(labels, right, below)
        bins = _bin_of(cosines)
        for group in (0, 1):
            pooled[group] += np.bincount(bins[label == group], minlength=_BINS)
            sum_squares[group] += np.square(cosines[label == group], dtype=np.float64).sum()
        sums.append(
            np.stack([(cosines * (label == g)).sum(axis=1, dtype=np.float64) for g in (0, 1)], 1)
        )
        place = (np.arange(stop - start)[:, None] * 2 + label) * num_coarse + coarse_of_bin[bins]
        counts = np.bincount(place.ravel(), minlength=(stop - start) * 2 * num_coarse)
        per_image.append(counts.reshape(-1, 2, num_coarse).astype(np.float32))
        start = stop
    return _Counts(pooled, np.concatenate(per_image), np.concatenate(sums), sum_squares)


def _numbers(counts: _Counts, edges, bootstrap: Bootstrap) -> dict[str, Resampled]:
    """Means, medians, differences and AUC, each with its resampled values."""
    drawn = bootstrap.means(counts.per_image).astype(np.float64)
    drawn_sums = bootstrap.means(counts.sums)
    totals, numbers = counts.pooled.sum(axis=1), {}
    for group, name in enumerate(GROUPS):
        if not totals[group]:
            continue
        means = _ratio(drawn_sums[:, group], drawn[:, group].sum(axis=-1))
        value = float(counts.sums[:, group].sum() / totals[group])
        numbers[f"mean_{name}"] = Resampled(value, means)
        median = _median(counts.pooled[group].astype(np.float64), _EDGES)
        medians = np.array([_median(row, edges) for row in drawn[:, group]])
        numbers[f"median_{name}"] = Resampled(median, medians)
    if totals.all():
        for kind in ("mean", "median"):
            normal, outlier = numbers[f"{kind}_normal"], numbers[f"{kind}_outlier"]
            numbers[f"{kind}_difference"] = Resampled(
                outlier.value - normal.value, outlier.samples - normal.samples
            )
        pooled = counts.pooled.astype(np.float64)
        value = float(auc(pooled[0], pooled[1]))
        numbers["auc"] = Resampled(value, auc(drawn[:, 0], drawn[:, 1]))
    return numbers


def _median(counts, edges) -> float:
    """The median of a histogram, interpolated within its bin; NaN if it is empty."""
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    if cumulative[-1] <= 0:
        return float("nan")
    half = cumulative[-1] / 2
    place = int(np.searchsorted(cumulative, half, side="left"))
    inside = (half - cumulative[place - 1]) / counts[place - 1]
    return float(edges[place - 1] + inside * (edges[place] - edges[place - 1]))


def _density(counts: _Counts, group: int):
    total = counts.pooled[group].sum()
    mean = counts.sums[:, group].sum() / max(total, 1)
    variance = (counts.sum_squares[group] - total * mean**2) / max(total - 1, 1)
    sd = float(np.sqrt(max(variance, 0.0)))
    return density(counts.pooled[group].astype(np.float64), _CENTRES, sd, DENSITY_AT)


def _ratio(above, below):
    """A quotient; NaN where nothing is divided by."""
    return np.where(below > 0, above / np.where(below > 0, below, 1), np.nan)
