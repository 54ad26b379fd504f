"""How sure is a number? Intervals from resampling the images.

Images are the unit: patches of one image resemble one another, so resampling patches would promise
too much. The resamples depend on the seed and the number of images only; two models measured on
the same images therefore meet the same resamples, and their difference is a paired one.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.statistics.pooled import COVERAGE, quantile_ends, share_ends

MIN_IMAGES = 30
"""Fewer make intervals from resampling too narrow for a verdict, or for a difference in bold."""
ZERO = 1e-6
"""Differences up to here may be rounding in float32."""
_BLOCK = 100


class Estimate(NamedTuple):
    """A number, how many images it rests on, and its 95 % interval."""

    value: float
    n: int
    low: float | None = None
    """None where resampling says nothing: for a maximum, or a single image."""
    high: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values: {"value", "n", "interval": [low, high] or null}."""
        interval = None if self.low is None else [self.low, self.high]
        return {"value": self.value, "n": self.n, "interval": interval}

    @classmethod
    def of(cls, found: Any) -> "Estimate | None":
        """A number as results.json, or a training run's metrics, have it; None for other things."""
        if isinstance(found, cls):
            return found
        if isinstance(found, int | float) and not isinstance(found, bool):
            return cls(float(found), 0)
        if not isinstance(found, Mapping):
            return None
        value = found.get("value", found.get("share"))
        if not isinstance(value, int | float):
            return None
        low, high = found.get("interval") or (found.get("low"), found.get("high"))
        return cls(float(value), int(found.get("n") or 0), low, high)

    @property
    def leaves_out_zero(self) -> bool:
        """Whether it is a difference to speak of: enough images, zero not in the interval.

        What rounding in float32 alone keeps from zero is zero.
        """
        if self.low is None or self.high is None or self.n < MIN_IMAGES:
            return False
        return self.low * self.high > 0 and min(abs(self.low), abs(self.high)) > ZERO

    def text(self, digits: int, scale: float = 1.0) -> str:
        """The number, times a scale, with its interval: "0.51 [0.48, 0.54]"."""
        return self._text(f".{digits}f", scale, "")

    def percent(self, digits: int = 1) -> str:
        """A share with its interval: "51.2 % [48.0, 54.4]"."""
        return self._text(f".{digits}f", 100.0, " %")

    def points(self, digits: int = 1) -> str:
        """A difference of shares with its interval: "+2.1 points [-0.3, +4.4]"."""
        return self._text(f"+.{digits}f", 100.0, " points")

    def _text(self, form: str, scale: float, unit: str) -> str:
        text = f"{scale * self.value:{form}}{unit}"
        if self.low is None or self.high is None:
            return text
        return f"{text} [{scale * self.low:{form}}, {scale * self.high:{form}}]"


class Resampled(NamedTuple):
    """A number with its value in every resample, so that two models' can be subtracted."""

    value: float
    samples: Float[np.ndarray, " replicates"]
    """NaN where a resample leaves it undefined."""


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """The resamples of a number of images."""

    num_images: int
    replicates: int = 1000
    seed: int = 0

    def means(self, values: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, "replicates ..."]:
        """The mean over the images of every resample."""
        flat = np.asarray(values, np.float32).reshape(self.num_images, -1)
        rows = [counts @ flat for counts in self._counts()]
        return (np.concatenate(rows) / self.num_images).reshape(-1, *values.shape[1:])

    def mean(self, values: Float[np.ndarray, " n"]) -> Estimate:
        """The mean over the images, with its interval."""
        return self.estimate(float(np.mean(values, dtype=np.float64)), self.means(values))

    def share(self, shares: Float[np.ndarray, " n"]) -> Estimate:
        """The mean of the images' shares in [0, 1], with the interval of `pooled.py`.

        No interval where all shares are equal.
        """
        low, high = share_ends(np.asarray(shares)[:, None])[:, 0].tolist()
        value = float(np.mean(shares, dtype=np.float64))
        return Estimate(value, self.num_images, *((low, high) if low == low else ()))

    def quantiles(
        self, values: Float[np.ndarray, "n p"], levels: Sequence[float]
    ) -> list[Estimate]:
        """Quantiles of all values of all images, with the intervals of `pooled.py`."""
        found = np.quantile(values.astype(np.float64), levels)
        ends = quantile_ends(values, levels)
        return [
            Estimate(float(value), self.num_images, *(end or ()))
            for value, end in zip(found, ends, strict=True)
        ]

    def statistic(
        self, values: Float[np.ndarray, "n ..."], function: Callable[[np.ndarray], np.ndarray]
    ) -> list[Estimate]:
        """`function` of the means of f features, with intervals.

        Args:
          values: f features of every image.
          function: Maps means (..., *f) to statistics (..., s).
        """
        means = np.asarray(np.mean(values, axis=0, dtype=np.float64))
        point = function(means[None])[0]
        samples = function(self.means(values))
        return [self.estimate(float(p), s) for p, s in zip(point, samples.T, strict=True)]

    def estimate(self, value: float, samples: Float[np.ndarray, " replicates"]) -> Estimate:
        """A number with the expanded percentile interval of its resampled values.

        Percentiles are too narrow for few images, so their levels are those of Student's t instead
        of the normal's: with n - 1 degrees of freedom, fewer where the resamples have heavy tails
        because few images decide, and a spread that is sqrt(n / (n - 1)) larger.
        Resamples in which the number is not defined (NaN: without any outlier, say) are left out;
        where they are more than 5 %, there is no interval.
        Reference: Hesterberg, The American Statistician 69 (2015); the degrees of freedom are
        Satterthwaite's.
        """
        defined = samples[np.isfinite(samples)]
        if self.num_images < 2 or len(defined) < COVERAGE * len(samples):
            return Estimate(value, self.num_images)
        tail = _tail(self.num_images, defined)
        low, high = np.quantile(defined, [tail, 1 - tail])
        return Estimate(value, self.num_images, float(low), float(high))

    def resampled(
        self, values: Float[np.ndarray, "n ..."], function: Callable[[np.ndarray], np.ndarray]
    ) -> list[Resampled]:
        """As `statistic`, with the resampled values themselves."""
        means = np.asarray(np.mean(values, axis=0, dtype=np.float64))
        point = function(means[None])[0]
        samples = function(self.means(values).astype(np.float64))
        return [Resampled(float(p), s) for p, s in zip(point, samples.T, strict=True)]

    def difference(self, first: Resampled, second: Resampled) -> Estimate:
        """Second minus first on the same images, with its paired interval."""
        return self.estimate(second.value - first.value, second.samples - first.samples)

    def _counts(self) -> Iterator[Float[np.ndarray, "block n"]]:
        """How often each image is drawn, a block of resamples at a time (memory stays bounded)."""
        for start in range(0, self.replicates, _BLOCK):
            size = min(_BLOCK, self.replicates - start)
            generator = np.random.default_rng((self.seed, start))
            drawn = generator.integers(self.num_images, size=(size, self.num_images))
            rows = drawn + self.num_images * np.arange(size)[:, None]
            counts = np.bincount(rows.ravel(), minlength=size * self.num_images)
            yield counts.reshape(size, self.num_images).astype(np.float32)


def _tail(n: int, samples: Float[np.ndarray, " replicates"]) -> float:
    """The share of resamples to leave out at each end.

    The variance that n images show has itself a variance of 2 / (n - 1) + excess kurtosis / n, in
    its own squared units; the excess kurtosis of the resamples is that of the images over n.
    """
    from scipy.stats import norm, t

    centred = samples - samples.mean()
    square = float(np.mean(centred**2))
    excess = float(np.mean(centred**4)) / square**2 - 3 if square > 0 else 0.0
    freedom = 2 / (2 / (n - 1) + max(excess, 0.0))
    return float(norm.cdf(-t.ppf((1 + COVERAGE) / 2, max(freedom, 1)) * (n / (n - 1)) ** 0.5))
