"""Is there a group of patches whose norms lie apart from the bulk's, on a scale of logarithms?

Two windows on the histogram of the patches' *contrast* (log2 of norm over the median norm of their
own image): a valley, and a group beyond it. The group lies apart where patches are denser in its
window than in the valley's, by more than chance makes them. All pairs of windows are tried, so that
neither the place of a bin nor the width of a group decides. A heavy tail, however long, falls, so
that nothing beyond is denser.

The evidence is the signed root of a likelihood ratio: counts of two windows against the hypothesis
that the valley is `DEPTH` times as dense as the group. It is divided by the spread of the counts
between images where this is larger than Poisson's: patches of one image do not
speak independently.

Letters: n images, p patches, k bins.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

OCTAVE_PARTS = 16
"""Bins per doubling of the norm."""
LOWEST = 6
"""The first bin, in sixteenths of an octave: a valley nearer to the median belongs to the bulk."""
NUM_BINS = 8 * OCTAVE_PARTS - LOWEST
"""The last one holds all that lies beyond, and is no part of a window."""
DEPTH = 0.8
"""A valley is at most so dense, in units of the group's density."""
VALLEY_WIDTHS = (2, 3, 4, 6, 8, 12)
GROUP_WIDTHS = (3, 4, 6, 8, 12, 16, 24, 32)


class Counts(NamedTuple):
    """Patches of each image by contrast."""

    of_images: Float[np.ndarray, "n k"]
    above: Int[np.ndarray, " k+1"]
    """Patches of all images above the lower edge of each bin."""
    alone: Int[np.ndarray, " k+1"]
    """Those among them of whose four neighbours none lies above it."""
    num_patches: int
    """Patches of all images, those below the first bin included."""


class Valleys(NamedTuple):
    """For every bin that may be the cut: the clearest valley around it."""

    evidence: Float[np.ndarray, " k"]
    """In standard errors; -inf where no windows fit."""
    depth: Float[np.ndarray, " k"]
    """Density in the valley, in units of the group's."""
    tokens: Int[np.ndarray, " k"]
    """Patches in the group's window."""


def contrast(norms: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Log2 of every norm over the median norm of its image, in float32."""
    logs = np.log2(np.maximum(norms, 1e-30, dtype=np.float32))
    return logs - np.median(logs, axis=1, keepdims=True)


def largest_neighbour(values: Float[np.ndarray, "n p"], grid: tuple[int, int]):
    """The largest value among the up to four neighbours of every patch, (n, p)."""
    maps = values.reshape(-1, *grid)
    found = np.full_like(maps, -np.inf)
    for axis in (1, 2):
        first, second = (
            np.moveaxis(array, axis, 0) for array in (found, maps)
        )  # views: what is written to the first is written to the result
        first[1:] = np.maximum(first[1:], second[:-1])
        first[:-1] = np.maximum(first[:-1], second[1:])
    return found.reshape(values.shape)


def count(contrasts: Float[np.ndarray, "n p"], grid: tuple[int, int]) -> Counts:
    """Histograms of the images, and how many patches above each edge stand alone."""
    bins = np.floor(contrasts * OCTAVE_PARTS).astype(np.int32) - LOWEST
    rows, columns = np.nonzero(bins >= 0)
    inside = np.minimum(bins[rows, columns], NUM_BINS - 1)
    num_images = len(contrasts)
    of_images = np.bincount(rows * NUM_BINS + inside, minlength=num_images * NUM_BINS)
    of_images = of_images.reshape(num_images, NUM_BINS)
    beside = np.floor(largest_neighbour(contrasts, grid)[rows, columns] * OCTAVE_PARTS) - LOWEST
    joint = np.minimum(inside, beside)
    accompanied = np.bincount(joint[joint >= 0].astype(int), minlength=NUM_BINS)
    above, beside_too = _from_above(of_images.sum(axis=0)), _from_above(accompanied)
    return Counts(of_images.astype(np.float32), above, above - beside_too, contrasts.size)


def valleys(of_images: Float[np.ndarray, "n k"], least: float) -> Valleys:
    """The clearest valley and group for each cut; the cut is the middle of its valley.

    Args:
      of_images: Counts.
      least: Patches that a group's window holds at the least, in 97.5 % of samples of the images.
    """
    finite = of_images[:, :-1]
    totals = np.concatenate([[0.0], np.cumsum(finite.sum(axis=0, dtype=np.float64))])
    spread = _window_covariances(finite)
    evidence, depth = np.full((2, NUM_BINS), -np.inf)
    tokens = np.zeros(NUM_BINS, int)
    for valley_width in VALLEY_WIDTHS:
        for group_width in GROUP_WIDTHS:
            z, ratio, inside = _compare(totals, spread, valley_width, group_width, least)
            best = z.argmax(axis=1)
            at = np.arange(len(z))
            cuts = at + valley_width // 2
            better = z[at, best] > evidence[cuts]
            evidence[cuts[better]] = z[at, best][better]
            depth[cuts[better]] = ratio[at, best][better]
            tokens[cuts[better]] = inside[best][better]
    return Valleys(evidence, depth, tokens)


def _compare(totals, spread, valley_width: int, group_width: int, least: float):
    """Evidence and depth for windows that start at bins a (valley) and b (group), (a, b)."""
    size = len(totals) - 1
    a, b = np.arange(size - valley_width + 1), np.arange(size - group_width + 1)
    in_valley = (totals[a + valley_width] - totals[a])[:, None]
    in_group = (totals[b + group_width] - totals[b])[None]
    part = DEPTH * valley_width / (DEPTH * valley_width + group_width)
    both = np.maximum(in_valley + in_group, 1e-9)
    gain = 2 * (_surprise(in_valley, both * part) + _surprise(in_group, both * (1 - part)))
    poisson = part**2 * in_group + (1 - part) ** 2 * in_valley
    of_group = _variance(spread, b, group_width)[None]
    of_valley = _variance(spread, a, valley_width)[:, None]
    mixed = _covariance(spread, a, valley_width, b, group_width)
    found = part**2 * of_group + (1 - part) ** 2 * of_valley - 2 * part * (1 - part) * mixed
    excess = np.maximum(found / np.maximum(poisson, 1e-9), 1.0)
    z = np.sqrt(np.maximum(gain, 0) / excess)
    is_valley = (in_valley < both * part) & (b[None] >= a[:, None] + valley_width)
    is_valley &= in_group - 1.96 * np.sqrt(np.maximum(of_group, in_group)) >= least
    ratio = in_valley / valley_width / np.maximum(in_group / group_width, 1e-9)
    return np.where(is_valley, z, -np.inf), ratio, in_group[0]


def _surprise(seen, expected):
    return seen * np.log(np.maximum(seen, 1e-9) / expected)


def _window_covariances(of_images):
    """Sums over [0, i) x [0, j) of the counts' covariance times the images, (k + 1, k + 1)."""
    centred = of_images - of_images.mean(axis=0, dtype=np.float64).astype(np.float32)
    n = len(of_images)
    covariance = (centred.T @ centred).astype(np.float64) * (n / max(n - 1, 1))
    return np.pad(covariance.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))


def _variance(spread, start, width: int):
    end = start + width
    return spread[end, end] - 2 * spread[start, end] + spread[start, start]


def _covariance(spread, a, a_width: int, b, b_width: int):
    rows = spread[a + a_width] - spread[a]
    return rows[:, b + b_width] - rows[:, b]


def _from_above(counts):
    return np.concatenate([np.cumsum(counts[::-1])[::-1], [0]])
