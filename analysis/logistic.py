"""Which linear classifier fits some features best? L2-penalised multinomial logistic regression.

Minimises C x (sum over the images of the cross-entropy) + 1/2 |W|^2, the intercept unpenalised:
scikit-learn's convention. Centring the features and turning them into their principal axes leave
the problem as it is (the intercept takes up the mean, the penalty knows no direction), and make its
Hessian nearly diagonal; the minimiser is L-BFGS on top of that diagonal, with an exact line search.
The logits along a line are known from one product, so a step costs two products with the features,
however far the search goes. Several strengths C are fitted at once: they share the features.

Letters: n images, d channels, c classes, s strengths.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

HISTORY = 8
"""Past steps that L-BFGS remembers."""
STRENGTHS_AT_ONCE = 5
LOGIT_BYTES = 2**28
"""How large the logits of all strengths that are fitted at once may get."""
_SEARCH_STEPS = 10
_SLOPE = 0.1  # the line search ends where this part of the slope is left


class Problem(NamedTuple):
    """Features in their principal axes, ready for any strength and any subset of the images."""

    features: Float[Array, "n d+1"]
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

    weights: Float[Array, "d+1 s c"]
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
    start: Float[Array, "d+1 c"] | None = None,
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
) -> Iterator[tuple[slice, Float[Array, "d+1 s c"]]]:
    """The classifiers of rising strengths, a few at a time, each begun where the last ended.

    Yields:
      Which strengths, and their weights.
    """
    size = 4 * problem.targets.size
    at_once = max(1, min(STRENGTHS_AT_ONCE, LOGIT_BYTES // size, len(strengths)))
    start = None
    for first in range(0, len(strengths), at_once):
        place = slice(first, min(first + at_once, len(strengths)))
        # A last, smaller group is filled up: one shape is one compilation.
        group = np.resize(strengths[place], at_once)
        weights = solve(problem, used, group, start, tolerance, max_steps).weights
        size_here = place.stop - place.start
        start = weights[:, size_here - 1]
        yield place, weights[:, :size_here]


def turn(problem: Problem, features: Float[np.ndarray, "n d"]) -> Float[Array, "n d+1"]:
    """Other images' features in the axes of a problem."""
    turned = (features - problem.mean.astype(np.float32)) @ problem.axes.astype(np.float32)
    return jnp.asarray(np.concatenate([turned, np.ones((len(turned), 1), np.float32)], axis=1))


@jax.jit
def classify(
    features: Float[Array, "n d+1"], weights: Float[Array, "d+1 s c"]
) -> Int[Array, "n s"]:
    """The likeliest class of every image, by every classifier."""
    return _logits(features, weights).argmax(axis=-1)


class _State(NamedTuple):
    weights: Array  # (d+1, s, c), as are gradient and the steps
    logits: Array  # (n, s, c)
    gradient: Array
    steps: Array  # (m, d+1, s, c), the newest first
    changes: Array  # of the gradient
    num_steps: Array
    gap: Array  # (s,)


@jax.jit
def _minimise(features, targets, used, strengths, weights, tolerance, max_steps) -> Solution:
    """L-BFGS of all strengths side by side; those that are done stand still."""
    lanes = strengths[None, :, None]
    penalised = jnp.ones((features.shape[1], 1, 1)).at[-1].set(0.0)
    kept = used[:, None, None]
    logits = _logits(features, weights)

    def gradient_of(weights, logits):
        error = (jax.nn.softmax(logits, axis=-1) - targets[:, None]) * kept
        return lanes * _pull_back(features, error) + penalised * weights

    spread = jax.nn.softmax(logits, axis=-1)
    curvature = _pull_back(jnp.square(features), kept * spread * (1 - spread))
    inverse = 1.0 / (lanes * curvature + penalised + 1e-12)

    def objective(weights, logits):
        loss = jax.nn.logsumexp(logits, axis=-1) - (logits * targets[:, None]).sum(axis=-1)
        penalty = 0.5 * (penalised * jnp.square(weights)).sum(axis=(0, 2))
        return strengths * (kept[..., 0] * loss).sum(axis=0) + penalty

    def gap_of(gradient, weights, logits):
        decrement = 0.5 * (inverse * jnp.square(gradient)).sum(axis=(0, 2))
        return decrement / objective(weights, logits)

    def step(state: _State) -> _State:
        moving = (state.gap > tolerance)[None, :, None]
        direction = _direction(state, inverse)
        along = _logits(features, direction)
        length = _search(
            state.logits,
            along,
            kept,
            lanes[0],
            slope=_dot(state.gradient, direction),
            penalty=_dot(penalised * direction, direction),
        )
        move = jnp.where(moving, length[None, :, None] * direction, 0.0)
        weights = state.weights + move
        logits = state.logits + jnp.where(moving, length[None, :, None] * along, 0.0)
        gradient = gradient_of(weights, logits)
        return _State(
            weights,
            logits,
            gradient,
            jnp.concatenate([move[None], state.steps[:-1]]),
            jnp.concatenate([(gradient - state.gradient)[None], state.changes[:-1]]),
            state.num_steps + 1,
            gap_of(gradient, weights, logits),
        )

    gradient = gradient_of(weights, logits)
    nothing = jnp.zeros((HISTORY, *weights.shape))
    state = _State(
        weights,
        logits,
        gradient,
        nothing,
        nothing,
        jnp.zeros((), jnp.int32),
        gap_of(gradient, weights, logits),
    )
    last = jax.lax.while_loop(
        lambda state: (state.gap > tolerance).any() & (state.num_steps < max_steps), step, state
    )
    return Solution(last.weights, last.num_steps, last.gap)


def _direction(state: _State, inverse):
    """L-BFGS's two loops, with the diagonal of the Hessian in the middle."""
    products = jax.vmap(_dot)(state.steps, state.changes)
    inverses = jnp.where(products > 0, 1.0 / jnp.maximum(products, 1e-30), 0.0)

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
    newest = _dot(state.changes[0], inverse * state.changes[0])
    scale = jnp.where(products[0] > 0, products[0] / jnp.maximum(newest, 1e-30), 1.0)
    vector = scale[None, :, None] * inverse * vector
    vector, _ = jax.lax.scan(recall, vector, (*history, factors), reverse=True)
    return -vector


def _search(logits, along, kept, lanes, slope, penalty):
    """The length of the step: Newton's method on the line, kept between known bounds.

    The objective is convex, so its slope along the line rises and has one zero.
    """
    # Along the line the slope is linear in the targets and the penalty; both are known at 0.
    strength = lanes[:, 0]

    def slopes(length):
        p = jax.nn.softmax(logits + length[None, :, None] * along, axis=-1)
        mean = (p * along).sum(axis=-1)
        square = (p * jnp.square(along)).sum(axis=-1)
        first = (kept[..., 0] * mean).sum(axis=0)
        second = (kept[..., 0] * (square - jnp.square(mean))).sum(axis=0)
        return strength * first + length * penalty, strength * second + penalty

    at_zero, curvature = slopes(jnp.zeros_like(slope))

    def body(state):
        length, low, high, _, _, count = state
        first, second = slopes(length)
        rise = first - at_zero + slope
        low = jnp.where(rise < 0, length, low)
        high = jnp.where(rise > 0, length, high)
        newton = length - rise / jnp.maximum(second, 1e-30)
        middle = jnp.where(jnp.isfinite(high), 0.5 * (low + high), 2 * length)
        inside = (newton > low) & (newton < high)
        is_done = jnp.abs(rise) <= -_SLOPE * slope
        return (
            jnp.where(is_done, length, jnp.where(inside, newton, middle)),
            low,
            high,
            rise,
            is_done,
            count + 1,
        )

    length = -slope / jnp.maximum(curvature, 1e-30)
    zeros = jnp.zeros_like(slope)
    state = (length, zeros, zeros + jnp.inf, slope, slope > jnp.inf, jnp.zeros((), jnp.int32))
    state = jax.lax.while_loop(
        lambda state: ~state[4].all() & (state[5] < _SEARCH_STEPS), body, state
    )
    return state[0]


def _logits(features, weights):
    return jnp.einsum("nd,dsc->nsc", features, weights, precision="highest")


def _pull_back(features, error):
    return jnp.einsum("nd,nsc->dsc", features, error, precision="highest")


def _dot(a, b):
    """Inner product of every strength."""
    return (a * b).sum(axis=(0, 2))
