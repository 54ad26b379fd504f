"""Does a difference hold over training runs? Welch's interval on one value for each run.

Resampling images says how sure a number is *of one pair of models*. Two runs of the same recipe
with other seeds differ by more than that, so that a statement about a recipe (with registers,
without) needs several runs a side, and an interval over runs.

Reference: Welch, Biometrika 34 (1947); the degrees of freedom are Satterthwaite's.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Values = Sequence[float | int] | np.ndarray
"""A number of each training run."""

MIN_SEEDS = 3
"""Runs a side; with two, the interval is wider than anything that is measured."""
COVERAGE = 0.95

Scope = Literal["supported", "not supported", "cannot tell", "in this pair of models"]


class OverSeeds(NamedTuple):
    """The difference of two recipes, or the mean of one."""

    value: float
    """Mean of the second recipe's runs minus mean of the first's; or the mean."""
    runs: tuple[int, int]
    low: float | None
    """None with fewer than `MIN_SEEDS` runs a side."""
    high: float | None


def difference(first: Values, second: Values) -> OverSeeds:
    """The second recipe's mean minus the first's, with its 95 % interval over training runs.

    Args:
      first: One value for each run, such as the share of outliers.
      second: The same of the other recipe's runs.
    """
    a, b = (np.asarray(values, np.float64) for values in (first, second))
    value, runs = float(b.mean() - a.mean()), (len(a), len(b))
    if min(runs) < MIN_SEEDS:
        return OverSeeds(value, runs, None, None)
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    error = float(parts.sum()) ** 0.5
    if error == 0:
        return OverSeeds(value, runs, value, value)
    freedom = parts.sum() ** 2 / (parts**2 / np.array([len(a) - 1, len(b) - 1])).sum()
    half = _quantile(float(freedom)) * error
    return OverSeeds(value, runs, value - half, value + half)


def mean(values: Values) -> OverSeeds:
    """The mean of one recipe's runs, with Student's 95 % interval over training runs.

    Args:
      values: One value for each run.
    """
    each = np.asarray(values, np.float64)
    found, runs = float(each.mean()), (len(each), 0)
    if len(each) < MIN_SEEDS:
        return OverSeeds(found, runs, None, None)
    half = _quantile(float(len(each) - 1)) * float(each.std(ddof=1)) / len(each) ** 0.5
    return OverSeeds(found, runs, found - half, found + half)


def scope(found: OverSeeds, expected: int, null: float = 0.0) -> Scope:
    """What may be said of a claim on the recipes.

    Args:
      found: The difference.
      expected: The claimed side: +1 above the null, -1 below.
      null: The difference if there were no effect.
    """
    if found.low is None or found.high is None:
        return "in this pair of models"
    if found.low <= null <= found.high:
        return "cannot tell"
    side = 1 if found.low > null else -1
    return "supported" if side == expected else "not supported"


def _quantile(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + COVERAGE) / 2, freedom))
