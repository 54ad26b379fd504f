"""Which linear map predicts best? Least squares from sums over all tokens, in float64."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from regvit_jax.analysis.questions.reconstruction.probes import Dense

RIDGE = 1e-8
"""Strength on features scaled to unit variance: it only tames directions that hold nothing."""
_COUNT, _ORIGIN = "num_tokens", "origin"
_SUMS = ("features", "targets", "squares", "products")


class NormalEquations:
    """Sums over tokens from which least squares follow.

    Args:
      arrays: The sums so far: the number of tokens, the origin that features (d) count from, and
        the sums of features (d), targets (v), and their products (d, d) and (d, v). None at first.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray]) -> None:
        self.arrays = dict(arrays)

    @property
    def num_tokens(self) -> int:
        return int(self.arrays[_COUNT])

    def plus(
        self,
        features: Float[np.ndarray, "tokens d"],
        targets: Float[np.ndarray, "tokens v"],
    ) -> "NormalEquations":
        """The equations with some tokens more."""
        x, y = features.astype(np.float64), targets.astype(np.float64)
        # Sums about a point near the mean lose fewer digits.
        origin = self.arrays.get(_ORIGIN, x.mean(axis=0))
        x -= origin[None]
        more = (x.sum(axis=0), y.sum(axis=0), x.T @ x, x.T @ y)
        sums = {name: self.arrays.get(name, 0) + s for name, s in zip(_SUMS, more, strict=True)}
        count = np.array(self.arrays.get(_COUNT, 0) + len(x))
        return NormalEquations({_COUNT: count, _ORIGIN: origin, **sums})

    @property
    def feature_mean(self) -> Float[np.ndarray, " d"]:
        return self._mean + self.arrays[_ORIGIN]

    @property
    def feature_sd(self) -> Float[np.ndarray, " d"]:
        """Standard deviations; 1 for a feature that never changes."""
        sd = np.sqrt(np.maximum(np.diag(self._covariance), 0))
        return np.where(sd > 1e-12 * (1 + np.abs(self.feature_mean)), sd, 1.0)

    @property
    def target_mean(self) -> Float[np.ndarray, " v"]:
        return self.arrays["targets"] / self.num_tokens

    def solve(self, ridge: float = RIDGE) -> Dense:
        """The kernel and bias of least squares, float32.

        Args:
          ridge: Penalty on the kernel for features of unit variance; none on the bias.
        """
        sd, product = self.feature_sd, self.arrays["products"] / self.num_tokens
        crossed = product - self._mean[:, None] * self.target_mean[None]
        correlation = self._covariance / (sd[:, None] * sd[None])
        correlation += ridge * np.eye(len(sd))
        kernel = np.linalg.solve(correlation, crossed / sd[:, None]) / sd[:, None]
        bias = self.target_mean - self.feature_mean @ kernel
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    @property
    def _mean(self) -> Float[np.ndarray, " d"]:
        """Mean of the features, counted from the origin."""
        return self.arrays["features"] / self.num_tokens

    @property
    def _covariance(self) -> Float[np.ndarray, "d d"]:
        return self.arrays["squares"] / self.num_tokens - self._mean[:, None] * self._mean[None]
