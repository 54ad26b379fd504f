"""Which linear classifier fits some features best? L2-penalised multinomial logistic regression.

Minimises C x (sum over the images of the cross-entropy) + 1/2 |W|^2, the intercept unpenalised:
scikit-learn's convention. Centring the features and turning them into their principal axes leave
the problem as it is (the intercept takes up the mean, the penalty knows no direction), and make its
Hessian nearly diagonal; the minimiser is L-BFGS on top of that diagonal, with an exact line search.
The logits along a line are known from one product, so a step costs two products with the features,
however far the search goes. Several strengths C are fitted at once: they share the features.

Letters: n images, d channels, f = d + 1 with the intercept's ones, c classes, s strengths.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from regvit_jax.analysis.stopping import check

HISTORY = 8
"""Past steps that L-BFGS remembers."""
STRENGTHS_AT_ONCE = 5
LOGIT_BYTES = 2**28
"""How large the logits of all strengths that are fitted at once may get."""
_SEARCH_STEPS = 10
_ROUNDING = 1e-6
# The curvature shrinks while separable classes move apart.
_STEPS_UNTIL_REFRESH = 10
_SLOPE = 0.1  # the line search ends where this part of the slope is left


class Problem(NamedTuple):
    """Features in their principal axes, ready for any strength and any subset of the images."""

    features: Float[Array, "n f"]
    """Centred, turned, with a column of ones."""
    targets: Float[Array, "n c"]
    """One-hot classes."""
    mean: Float[np.ndarray, " d"]
    axes: Float[np.ndarray, "d d"]
    """Principal axes, in columns."""

    @property
    def num_classes(self) -> int:
        return self.targets.shape[1]


class Solution(NamedTuple):
    """Classifiers of several strengths, in the axes of their problem."""

    weights: Float[Array, "f s c"]
    """The last row is the intercept."""
    num_steps: Int[Array, ""]
    gap: Float[Array, " s"]
    """Estimated distance from the minimum, in units of the objective."""


def prepare(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], num_classes: int
) -> Problem:
    """The problem of telling the classes apart; nothing is scaled, so C means what it says."""
    mean = features.mean(axis=0, dtype=np.float64)
    centred = features - mean.astype(np.float32)
    # The axes need not be exact, only orthogonal: float32 sums do.
    _, axes = np.linalg.eigh((centred.T @ centred).astype(np.float64))
    turned = centred @ axes.astype(np.float32)
    ones = np.ones((len(turned), 1), np.float32)
    targets = np.eye(num_classes, dtype=np.float32)[labels]
    return Problem(
        jnp.asarray(np.concatenate([turned, ones], axis=1)), jnp.asarray(targets), mean, axes
    )


def solve(
    problem: Problem,
    used: Bool[np.ndarray, " n"],
    strengths: Float[np.ndarray, " s"],
    start: Float[Array, "f c"] | None = None,
    tolerance: float = 1e-6,
    max_steps: int = 1000,
) -> Solution:
    """The best classifier of every strength.

    Args:
      problem: From `prepare`.
      used: Images that are fitted; the others count for nothing.
      strengths: Values of C.
      start: Where to begin; zero unless given.
      tolerance: The estimated distance from the minimum at which to stop, in units of the
        objective.
      max_steps: Of L-BFGS.
    """
    shape = (problem.features.shape[1], problem.num_classes)
    start = jnp.zeros(shape) if start is None else start
    weights = jnp.broadcast_to(start[:, None], (shape[0], len(strengths), shape[1]))
    return _minimise(
        problem.features,
        problem.targets,
        jnp.asarray(used, jnp.float32),
        jnp.asarray(strengths, jnp.float32),
        weights,
        tolerance,
        max_steps,
    )


def solve_path(
    problem: Problem,
    used: Bool[np.ndarray, " n"],
    strengths: Float[np.ndarray, " s"],
    tolerance: float = 1e-5,
    max_steps: int = 200,
) -> Iterator[tuple[slice, Float[Array, "f s c"]]]:
    """The classifiers of rising strengths, a few at a time, each begun where the last ended.

    Yields:
      Which strengths, and their weights.
    """
    size = 4 * problem.targets.size
    at_once = max(1, min(STRENGTHS_AT_ONCE, LOGIT_BYTES // size, len(strengths)))
    start = None
    for first in range(0, len(strengths), at_once):
        check()
        place = slice(first, min(first + at_once, len(strengths)))
        # A last, smaller group is filled up: one shape is one compilation.
        group = np.resize(strengths[place], at_once)
        weights = solve(problem, used, group, start, tolerance, max_steps).weights
        size_here = place.stop - place.start
        start = weights[:, size_here - 1]
        yield place, weights[:, :size_here]


def turn(problem: Problem, features: Float[np.ndarray, "n d"]) -> Float[Array, "n f"]:
    """Other images' features in the axes of a problem."""
    turned = (features - problem.mean.astype(np.float32)) @ problem.axes.astype(np.float32)
    return jnp.asarray(np.concatenate([turned, np.ones((len(turned), 1), np.float32)], axis=1))


@jax.jit
def classify(features: Float[Array, "n f"], weights: Float[Array, "f s c"]) -> Int[Array, "n s"]:
    """The likeliest class of every image, by every classifier."""
    return _logits(features, weights).argmax(axis=-1)


class _State(NamedTuple):
    weights: Array  # (f, s, c), as are gradient and the steps
    logits: Array  # (n, s, c)
    gradient: Array
    inverse: Array  # of the Hessian's diagonal, some steps ago
    steps: Array  # (m, f, s, c), the newest first
    changes: Array  # of the gradient
    num_steps: Array
    objective: Array  # (s,), as is the gap
    gap: Array


@jax.jit
def _minimise(features, targets, used, strengths, weights, tolerance, max_steps) -> Solution:
    """L-BFGS of all strengths side by side; those that are done stand still."""
    lanes = strengths[None, :, None]
    penalised = jnp.ones((features.shape[1], 1, 1)).at[-1].set(0.0)
    kept = used[:, None, None]
    logits = _logits(features, weights)

    others = 1.0 - targets[:, None]

    def slope_of(weights, logits):
        """The gradient and the objective.

        Of classes far apart the error p - y is tiny. It is added up from the wrong classes' p,
        because 1 - p of the right one would be rounding.
        """
        wrong = jax.nn.softmax(logits, axis=-1) * others * kept
        doubt = wrong.sum(axis=-1, keepdims=True)
        gradient = lanes * _pull_back(features, wrong - targets[:, None] * doubt)
        loss = -jnp.log1p(-jnp.minimum(doubt[..., 0], 1 - 1e-6)).sum(axis=0)
        penalty = 0.5 * (penalised * jnp.square(weights)).sum(axis=(0, 2))
        return gradient + penalised * weights, strengths * loss + penalty

    def inverse_of(logits):
        """Inverse of the Hessian's diagonal, to which L-BFGS adds what it learns of the rest."""
        p = jax.nn.softmax(logits, axis=-1)
        doubt = (p * others).sum(axis=-1, keepdims=True)
        spread = p * jnp.where(targets[:, None] > 0, doubt, 1 - p)
        curvature = _pull_back(jnp.square(features), kept * spread)
        return 1.0 / (lanes * curvature + penalised + 1e-12)

    def gap_of(inverse, gradient, objective):
        return 0.5 * (inverse * jnp.square(gradient)).sum(axis=(0, 2)) / objective

    def step(state: _State) -> _State:
        moving = (state.gap > tolerance)[None, :, None]
        direction = _direction(state)
        along = _logits(features, direction)
        own = (along * targets[:, None]).sum(axis=-1, keepdims=True)
        length = _search(
            state.logits,
            (along - own) * kept,
            strengths,
            penalty_slope=_dot(penalised * state.weights, direction),
            penalty=_dot(penalised * direction, direction),
        )
        move = jnp.where(moving, length[None, :, None] * direction, 0.0)
        weights = state.weights + move
        logits = state.logits + jnp.where(moving, length[None, :, None] * along, 0.0)
        gradient, objective = slope_of(weights, logits)
        return _State(
            weights,
            logits,
            gradient,
            state.inverse,
            jnp.concatenate([move[None], state.steps[:-1]]),
            jnp.concatenate([(gradient - state.gradient)[None], state.changes[:-1]]),
            state.num_steps + 1,
            objective,
            gap_of(state.inverse, gradient, objective),
        )

    def refresh(state: _State) -> _State:
        inverse = inverse_of(state.logits)
        gap = gap_of(inverse, state.gradient, state.objective)
        return state._replace(inverse=inverse, gap=gap)

    def is_unfinished(state: _State):
        return (state.gap > tolerance).any() & (state.num_steps < max_steps)

    def several_steps(state: _State) -> _State:
        stop = state.num_steps + _STEPS_UNTIL_REFRESH
        last = jax.lax.while_loop(
            lambda state: is_unfinished(state) & (state.num_steps < stop), step, state
        )
        return refresh(last)

    gradient, objective = slope_of(weights, logits)
    nothing = jnp.zeros((HISTORY, *weights.shape))
    state = _State(
        weights,
        logits,
        gradient,
        jnp.zeros_like(gradient),
        nothing,
        nothing,
        jnp.zeros((), jnp.int32),
        objective,
        jnp.zeros_like(strengths),
    )
    last = jax.lax.while_loop(is_unfinished, several_steps, refresh(state))
    return Solution(last.weights, last.num_steps, last.gap)


def _direction(state: _State):
    """L-BFGS's two loops, with the diagonal of the Hessian in the middle."""
    products = jax.vmap(_dot)(state.steps, state.changes)
    sizes = jax.vmap(_dot)(state.steps, state.steps) * jax.vmap(_dot)(state.changes, state.changes)
    is_known = products > _ROUNDING * jnp.sqrt(sizes)  # else the change is rounding, or no step
    inverses = jnp.where(is_known, 1.0 / jnp.where(is_known, products, 1.0), 0.0)

    def forget(vector, remembered):
        step, change, product = remembered
        factor = product * _dot(step, vector)
        return vector - factor[None, :, None] * change, factor

    def recall(vector, remembered):
        step, change, product, factor = remembered
        again = product * _dot(change, vector)
        return vector + (factor - again)[None, :, None] * step, None

    history = (state.steps, state.changes, inverses)
    vector, factors = jax.lax.scan(forget, state.gradient, history)
    newest = _dot(state.changes[0], state.inverse * state.changes[0])
    scale = jnp.where(is_known[0], products[0] / jnp.maximum(newest, 1e-30), 1.0)
    vector = scale[None, :, None] * state.inverse * vector
    vector, _ = jax.lax.scan(recall, vector, (*history, factors), reverse=True)
    return -vector


def _search(logits, along, strengths, penalty_slope, penalty):
    """The length of the step: Newton's method on the line, kept between known bounds.

    The objective is convex, so its slope along the line rises and has one zero.

    Args:
      logits: At its start.
      along: Their change, that of the right class taken off: the slope of an image's loss is then
        the mean of `along` over the classes, without a difference of large numbers.
      strengths: C.
      penalty_slope: Of the penalty, at the start.
      penalty: Its second derivative.
    """

    def slopes(length):
        p = jax.nn.softmax(logits + length[None, :, None] * along, axis=-1)
        mean = (p * along).sum(axis=-1)
        square = (p * jnp.square(along)).sum(axis=-1)
        first = strengths * mean.sum(axis=0) + penalty_slope + length * penalty
        return first, strengths * (square - jnp.square(mean)).sum(axis=0) + penalty

    def body(state):
        length, low, high, _, count = state
        first, second = slopes(length)
        low, high = jnp.where(first < 0, length, low), jnp.where(first > 0, length, high)
        newton = length - first / jnp.maximum(second, 1e-30)
        middle = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2 * length)
        following = jnp.where((newton > low) & (newton < high), newton, middle)
        is_done = jnp.abs(first) <= -_SLOPE * start
        return jnp.where(is_done, length, following), low, high, is_done, count + 1

    zeros = jnp.zeros_like(strengths)
    start, curvature = slopes(zeros)
    state = (
        -start / jnp.maximum(curvature, 1e-30),
        zeros,
        zeros + jnp.inf,
        start > 0,
        jnp.zeros((), jnp.int32),
    )
    length, *_ = jax.lax.while_loop(
        lambda state: ~state[3].all() & (state[4] < _SEARCH_STEPS), body, state
    )
    return jnp.where(start < 0, length, 0.0)  # rounding may have turned the direction around


def _logits(features, weights):
    return jnp.einsum("nd,dsc->nsc", features, weights, precision="highest")


def _pull_back(features, error):
    return jnp.einsum("nd,nsc->dsc", features, error, precision="highest")


def _dot(a, b):
    """Inner product of every strength."""
    return (a * b).sum(axis=(0, 2))
