"""A linear classifier, ready to judge other features: logistic regression of a chosen strength.

Letters: n and m rows, d channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from regvit_jax.analysis.statistics import logistic

STRENGTHS = tuple(10.0 ** np.arange(-5.0, 4.0))
"""Values of C to choose from."""
HELD_OUT = 10
"""One row in so many is held out for the choice."""


class Linear(NamedTuple):
    """A fitted classifier."""

    problem: logistic.Problem
    solution: logistic.Solution
    classes: Int[np.ndarray, " c"]
    """Those that were among the rows it learned from."""
    strength: float

    def predict(self, features: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """The likeliest class of every row."""
        turned = logistic.turn(self.problem, features)
        return self.classes[np.asarray(logistic.classify(turned, self.solution.weights))[:, 0]]


def fit_linear(
    features: Float[np.ndarray, "m d"],
    labels: Int[np.ndarray, " m"],
    seed: int,
    groups: Int[np.ndarray, " m"] | None = None,
    tried: Sequence[float] = STRENGTHS,
) -> Linear:
    """Logistic regression: the strength chosen on a held-out tenth, then fitted to all.

    Of equal accuracies the smallest strength wins.

    Args:
      features: To learn from.
      labels: Their classes, of which there are at least two.
      seed: Of the tenth.
      groups: Rows of a group, such as patches of an image, are held out together.
      tried: Values of C, rising.
    """
    classes, places = np.unique(labels, return_inverse=True)
    problem = logistic.prepare(np.asarray(features, np.float32), places, len(classes))
    groups = np.arange(len(labels)) if groups is None else groups
    known = np.unique(groups)
    drawn = np.random.default_rng((seed, 1)).permutation(known)[: max(1, len(known) // HELD_OUT)]
    held_out = np.isin(groups, drawn)
    strengths, shares = np.array(tried), np.zeros(len(tried))
    for place, weights in logistic.solve_path(problem, ~held_out, strengths):
        right = np.asarray(logistic.classify(problem.features, weights)) == places[:, None]
        shares[place] = right[held_out].mean(axis=0)
    best = int(shares.argmax())
    everything = np.ones(len(labels), bool)
    solution = logistic.solve(problem, everything, strengths[best : best + 1])
    return Linear(problem, solution, classes, float(strengths[best]))
