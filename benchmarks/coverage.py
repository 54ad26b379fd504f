"""How often do 95 % intervals hold the truth, at 20 to 1,000 images?

`python -m benchmarks.coverage` draws images with scales of their own, asks the estimators of
`analysis/statistics/bootstrap.py` for intervals, and prints the share of runs whose interval holds
the truth. `--keep` adds the figures to the results.
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from benchmarks import measurements
from regvit_jax.analysis.statistics.bootstrap import Bootstrap, Estimate

NUM_PATCHES = 196
IMAGES = (20, 30, 100, 1000)
SPREAD, IMAGE_SPREAD = 0.2, 0.25
CUT = 1.9
"""In medians: a share of 2.3 % lies above."""


def log_norms(generator: np.random.Generator, n: int) -> np.ndarray:
    """Logarithms of norms, whose images have scales of their own."""
    images = generator.normal(0, IMAGE_SPREAD, (n, 1))
    return images + generator.normal(0, SPREAD, (n, NUM_PATCHES))


def mean(logs: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """The mean of the log norms."""
    return bootstrap.mean(logs.mean(axis=1))


def share(logs: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """The share of patches above a cut, most of them in few images."""
    return bootstrap.share((logs > np.log(CUT)).mean(axis=1))


def ratio(logs: np.ndarray, bootstrap: Bootstrap) -> Estimate:
    """A quotient of two means."""
    features = np.stack([np.exp(logs).mean(axis=1), np.exp(-logs).mean(axis=1)], axis=1)
    return bootstrap.statistic(features, lambda means: means[..., :1] / means[..., 1:])[0]


TOTAL = float(np.hypot(SPREAD, IMAGE_SPREAD))
ESTIMATORS: dict[str, tuple[Callable[[np.ndarray, Bootstrap], Estimate], float]] = {
    "mean": (mean, 0.0),
    "share of patches above a cut": (share, float(stats.norm.sf(np.log(CUT) / TOTAL))),
    "ratio of two means": (ratio, 1.0),
}


def main() -> None:
    """Draws, prints and keeps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="of every estimator and number")
    parser.add_argument("--keep", action="store_true", help="add the figures to the results")
    options = parser.parse_args()
    rows = [measure(name, n, options.runs) for name in ESTIMATORS for n in IMAGES]
    for row in rows:
        print(
            f"{row['estimator']:30} n {row['images']:5}: {row['covered']:.3f} of {row['printed']}"
        )
    if options.keep:
        measurements.keep("coverage", rows, {"runs": options.runs})


def measure(name: str, num_images: int, runs: int) -> dict[str, Any]:
    """How many intervals are given, and which share of them holds the truth."""
    estimator, truth = ESTIMATORS[name]
    printed = covered = 0
    for seed in range(runs):
        logs = log_norms(np.random.default_rng((num_images, seed)), num_images)
        found = estimator(logs, Bootstrap(num_images, 500, seed))
        if found.low is not None and found.high is not None:
            printed += 1
            covered += found.low <= truth <= found.high
    return {
        "estimator": name,
        "images": num_images,
        "printed": printed,
        "covered": covered / max(printed, 1),
    }


if __name__ == "__main__":
    main()
