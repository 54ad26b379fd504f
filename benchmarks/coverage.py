"""How often do 95 % intervals hold the truth, at 20 to 1,000 images?

`python -m benchmarks.coverage` draws images with scales of their own and outliers in unlike
numbers, asks the estimators of `analysis/statistics/bootstrap.py` for intervals, and prints the
share of runs whose interval holds the truth. `--keep` adds the figures to the results; `--write`
puts the table of the newest ones into docs/analyse.md, between two comments.
"""

import argparse
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from benchmarks import measurements
from benchmarks.tables import cells, newest_rows, replaced_table
from benchmarks.verdict import PAGE
from regvit_jax.analysis.questions.similarity.similarity import auc
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

JOB = "coverage"
BEGIN, END = "<!-- coverage: python -m benchmarks.coverage -->", "<!-- end of coverage -->"
NUM_PATCHES = 196
IMAGES = (20, 30, 100, 1000)
SPREAD, IMAGE_SPREAD = 0.2, 0.25
TOTAL = float(np.hypot(SPREAD, IMAGE_SPREAD))
CUT = 1.9
"""In medians: a share of 2.2 % lies above."""
OUTLIERS = 0.02
EDGES = np.linspace(-5, 5, 129)
"""Bins of the likeness of patches."""


class Drawn(NamedTuple):
    """Simulated images."""

    logs: np.ndarray
    """Log norms of the patches, (n, p)."""
    is_outlier: np.ndarray
    likeness: np.ndarray
    """How like each patch is to a neighbour: outliers more, in some images more than in others."""
    other: np.ndarray
    """Outliers of a second model on the same images, (n): as many on average."""


def draw(num_images: int, seed: int) -> Drawn:
    """Images whose scales, numbers of outliers and likeness differ."""
    generator = np.random.default_rng((num_images, seed))
    shape = (num_images, NUM_PATCHES)
    logs = generator.normal(0, IMAGE_SPREAD, (num_images, 1)) + generator.normal(0, SPREAD, shape)
    means = OUTLIERS * NUM_PATCHES * generator.gamma(0.7, 1 / 0.7, num_images)
    is_outlier = np.arange(NUM_PATCHES) < generator.poisson(means)[:, None]
    likeness = generator.normal(0, 0.5, (num_images, 1)) + generator.normal(0, 1, shape)
    likeness += is_outlier * generator.normal(0.3, 0.4, (num_images, 1))
    other = generator.poisson(means * generator.gamma(4, 1 / 4, num_images))
    return Drawn(logs, is_outlier, likeness, other)


def mean(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """The mean of the log norms."""
    return bootstrap.mean(drawn.logs.mean(axis=1))


def ratio(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """A quotient of two means."""
    logs = drawn.logs
    features = np.stack([np.exp(logs).mean(axis=1), np.exp(-logs).mean(axis=1)], axis=1)
    return bootstrap.statistic(features, lambda means: means[..., :1] / means[..., 1:])[0]


def share(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """The share of patches above a cut, most of them in few images."""
    return bootstrap.share((drawn.logs > np.log(CUT)).mean(axis=1))


def outlier_share(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """The share of patches that are outliers."""
    return bootstrap.share(drawn.is_outlier.mean(axis=1))


def quantile(level: float, drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """A quantile of the log norms of all patches."""
    return bootstrap.quantiles(drawn.logs, [level])[0]


def paired(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """How many more outliers an image has in another model."""
    pair = [drawn.is_outlier.sum(axis=1).astype(float), drawn.other.astype(float)]
    first, second = (bootstrap.resampled(x[:, None], lambda means: means)[0] for x in pair)
    return bootstrap.difference(first, second)


def likeness_auc(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """How often an outlier is more like its neighbour than another patch is."""
    return bootstrap.statistic(histograms(drawn), auc_of)[0]


def likeness_medians(drawn: Drawn, bootstrap: Bootstrap) -> Estimate:
    """The difference of the medians of outliers and other patches."""
    return bootstrap.statistic(histograms(drawn), difference_of_medians)[0]


def histograms(drawn: Drawn) -> np.ndarray:
    """Counts of the likeness by image, of both groups, (n, 2 k)."""
    num_images, size = len(drawn.logs), len(EDGES) - 1
    bins = np.searchsorted(EDGES, drawn.likeness).clip(1, size) - 1
    bins = bins + 2 * size * np.arange(num_images)[:, None] + size * drawn.is_outlier
    return np.bincount(bins.ravel(), minlength=num_images * 2 * size).reshape(num_images, -1)


def auc_of(counts: np.ndarray) -> np.ndarray:
    """The AUC of counts in bins, (..., 2 k), as (..., 1)."""
    return auc(*np.split(counts, 2, axis=-1))[..., None]


def difference_of_medians(counts: np.ndarray) -> np.ndarray:
    """Second group minus first, interpolated in their bins, (..., 1)."""
    normal, outlier = (_median(part) for part in np.split(counts, 2, axis=-1))
    return (outlier - normal)[..., None]


def _median(counts):
    cumulative = counts.cumsum(axis=-1)
    half = cumulative[..., -1:] / 2
    place = (cumulative < half).sum(axis=-1, keepdims=True).clip(0, counts.shape[-1] - 1)
    inside = np.take_along_axis(counts, place, axis=-1)
    before = np.take_along_axis(cumulative, place, axis=-1) - inside
    part = (half - before) / np.maximum(inside, 1e-9)
    return (EDGES[place] + part * (EDGES[1] - EDGES[0]))[..., 0]


@functools.cache
def _of_many() -> np.ndarray:
    """Mean histogram of 40,000 images."""
    return np.mean([histograms(draw(4000, seed)).mean(axis=0) for seed in range(10)], axis=0)


Estimator = Callable[[Drawn, Bootstrap], Estimate]
ESTIMATORS: dict[str, tuple[Estimator, Callable[[], float]]] = {
    "mean": (mean, lambda: 0.0),
    "ratio of two means": (ratio, lambda: 1.0),
    "share of patches above a cut": (share, lambda: float(stats.norm.sf(np.log(CUT) / TOTAL))),
    "share of outliers": (outlier_share, lambda: OUTLIERS),
    "median of all patches": (functools.partial(quantile, 0.5), lambda: 0.0),
    "98 % quantile of all patches": (
        functools.partial(quantile, 0.98),
        lambda: float(stats.norm.ppf(0.98) * TOTAL),
    ),
    "paired difference of two models": (paired, lambda: 0.0),
    "AUC of two groups": (likeness_auc, lambda: float(auc_of(_of_many())[0])),
    "difference of two groups' medians": (
        likeness_medians,
        lambda: float(difference_of_medians(_of_many())[0]),
    ),
}


def main() -> None:
    """Draws, prints, keeps and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="of every estimator and number")
    parser.add_argument("--keep", action="store_true", help="add the figures to the results")
    parser.add_argument("--write", action="store_true", help="rewrite the table of the docs only")
    options = parser.parse_args()
    if not options.write:
        rows = []
        for name in ESTIMATORS:
            rows.append(measure(name, options.runs))
            print(*line(rows[-1]), sep="  ", flush=True)
        if options.keep:
            measurements.keep(JOB, rows, {"runs": options.runs})
    if options.write or options.keep:
        PAGE.write_text(replaced(PAGE.read_text()))


def measure(name: str, runs: int) -> dict[str, Any]:
    """By number of images: how many intervals are given, and which share holds the truth."""
    estimator, truth = ESTIMATORS[name][0], ESTIMATORS[name][1]()
    found = {}
    for num_images in IMAGES:
        printed = covered = 0
        for seed in range(runs):
            estimate = estimator(draw(num_images, seed), Bootstrap(num_images, 1000, seed))
            if estimate.low is not None and estimate.high is not None:
                printed += 1
                covered += estimate.low <= truth <= estimate.high
        found[str(num_images)] = {"printed": printed, "covered": covered}
    return {"estimator": name, "runs": runs, "by": found}


def line(row: Mapping[str, Any]) -> Iterator[str]:
    """An estimator, and by number of images the share of intervals that hold the truth."""
    yield row["estimator"]
    for by in row["by"].values():
        is_given = by["printed"] > row["runs"] / 2
        yield f"{by['covered'] / by['printed']:.3f}" if is_given else "none"


def replaced(text: str) -> str:
    """The page with the newest table."""
    rows = newest_rows(JOB)
    heads = [f"{n:,} images" for n in IMAGES]
    table = [cells(["interval of", *heads]), "|---" * (1 + len(heads)) + "|"]
    table += [cells(line(row)) for row in rows]
    note = f"Share of {rows[0]['runs']:,} simulated intervals; “none”: too few images for any."
    return replaced_table(text, BEGIN, END, [*table, "", note])


if __name__ == "__main__":
    main()
