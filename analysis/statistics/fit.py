"""How does a small probe learn? Minibatches, early stopping, and the best parameters kept."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import optax
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.stopping import check
from regvit_jax.console import progress

Tree = Any


class Fit(NamedTuple):
    """A fitted probe."""

    params: Tree
    """Of the best epoch, or of the last one where that was asked for."""
    scores: list[float]
    """After every epoch; lower is better."""
    best_epoch: int
    """From 0."""
    stopped_early: bool


def fit(
    loss: Callable[..., Float[Array, ""]],
    params: Tree,
    batches: Callable[[int], Iterable[tuple[Any, ...]]],
    score: Callable[[Tree], float],
    optimiser: optax.GradientTransformation,
    max_epochs: int,
    patience: int,
    keep_best: bool = True,
    min_gain: float = 0.0,
    label: str | None = None,
) -> Fit:
    """Parameters after gradient descent that stops when the score no longer falls.

    Args:
      loss: Maps parameters and the arrays of a batch to a number; compiled for each batch shape.
      params: Where to start.
      batches: The batches of an epoch, by its number from 0.
      score: Judges parameters on data that they did not learn from; lower is better.
      optimiser: Of optax.
      max_epochs: At most so many.
      patience: Epochs without a gain after which to stop.
      keep_best: Return the parameters of the best epoch instead of the last one's.
      min_gain: By what share the score must fall to count as a gain.
      label: What the progress line of the epochs says; no line unless given.
    """

    @jax.jit
    def step(params, state, *batch):
        gradients = jax.grad(loss)(params, *batch)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    state, best, best_epoch = optimiser.init(params), params, 0
    scores: list[float] = []
    gained = 0
    epochs = range(max_epochs)
    for epoch in epochs if label is None else progress(epochs, max_epochs, label):
        for batch in batches(epoch):
            check()
            params, state = step(params, state, *batch)
        scores.append(float(score(params)))
        if scores[-1] < scores[best_epoch] or epoch == 0:
            best, best_epoch = params, epoch
        if scores[-1] < scores[gained] * (1 - min_gain):
            gained = epoch
        elif epoch - gained >= patience:
            return Fit(best if keep_best else params, scores, best_epoch, True)
    return Fit(best if keep_best else params, scores, best_epoch, False)
