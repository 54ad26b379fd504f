"""How does a small probe learn? Minibatches, early stopping, and the best parameters kept."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float

from regvit_jax.analysis.progress import track
from regvit_jax.analysis.stopping import check
from regvit_jax.errors import InputError
from regvit_jax.npz import read_npz
from regvit_jax.whole import appearing

Tree = Any
SECONDS_BETWEEN_SAVES = 2.0
_SCORES = "scores"


class Fit(NamedTuple):
    """A fitted probe."""

    params: Tree
    """Parameters of the best epoch, or of the last one where that was asked for."""
    scores: list[float]
    """After every epoch; lower is better."""
    best_epoch: int
    """From 0."""
    stopped_early: bool


class _State(NamedTuple):
    """All that the next epoch depends on."""

    params: Tree
    optimiser: Tree
    best: Tree
    """The parameters of the best epoch so far."""
    scores: list[float]


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
    saved: Path | None = None,
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
      saved: An `.npz` file for the state between epochs. A fit that was stopped goes on from it
        and ends bit for bit where it would have ended; one that was finished is read again.
    """

    @jax.jit
    def step(params, state, *batch):
        gradients = jax.grad(loss)(params, *batch)
        updates, state = optimiser.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    now = _taken_up(saved, _State(params, optimiser.init(params), params, []))
    saved_at = time.monotonic()
    first = len(now.scores)
    epochs: Iterable[int] = range(first, max_epochs)
    for epoch in epochs if label is None else track(epochs, max_epochs, label, done=first):
        if _has_stalled(now.scores, patience, min_gain):
            break
        params, state = now.params, now.optimiser
        for batch in batches(epoch):
            check()
            params, state = step(params, state, *batch)
        scores = [*now.scores, float(score(params))]
        is_best = _last_gain(scores) == epoch
        now = _State(params, state, params if is_best else now.best, scores)
        if saved is not None and time.monotonic() - saved_at > SECONDS_BETWEEN_SAVES:
            _save(saved, now)
            saved_at = time.monotonic()
    if saved is not None and len(now.scores) > first:
        _save(saved, now)
    stopped_early = _has_stalled(now.scores, patience, min_gain)
    chosen = now.best if keep_best else now.params
    return Fit(chosen, now.scores, _last_gain(now.scores), stopped_early)


def _last_gain(scores: Sequence[float], min_gain: float = 0.0) -> int:
    """The last epoch whose score fell by a share against the one that had fallen before it."""
    gained = 0
    for epoch, score in enumerate(scores):
        if score < scores[gained] * (1 - min_gain):
            gained = epoch
    return gained


def _has_stalled(scores: Sequence[float], patience: int, min_gain: float) -> bool:
    return len(scores) - 1 - _last_gain(scores, min_gain) >= patience


def _save(path: Path, state: _State) -> None:
    """Keys: scores, and the leaves of the state by their number."""
    leaves = jax.tree.leaves(state._replace(scores=[]))
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    with appearing(path, replace=True) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, **{_SCORES: np.array(state.scores)})


def _taken_up(path: Path | None, start: _State) -> _State:
    """The saved state; the start where there is none, or not one of this fit."""
    if path is None:
        return start
    leaves, structure = jax.tree.flatten(start)
    try:
        arrays = read_npz(path)
        scores = arrays.pop(_SCORES).tolist()
        found = [arrays[str(i)] for i in range(len(arrays))]
    except (OSError, InputError, KeyError):
        return start
    kinds = [[(np.shape(x), np.asarray(x).dtype) for x in each] for each in (leaves, found)]
    if kinds[0] != kinds[1]:
        return start
    return jax.tree.unflatten(structure, found)._replace(scores=scores)
