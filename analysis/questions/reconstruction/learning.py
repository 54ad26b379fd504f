"""How do the probes learn? From the training tokens of a frozen network.

The network runs once over the training images and hands over arrays, so that no gradient ever
reaches it. Every fit is saved while it goes on, and one that was stopped is taken up.
"""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from regvit_jax.analysis.questions.reconstruction.equations import NormalEquations
from regvit_jax.analysis.questions.reconstruction.probes import (
    HIDDEN_RATIO,
    Dense,
    Mlp,
    apply_dense,
    apply_mlp,
    normalised_patches,
    start_mlp,
    token_l2,
)
from regvit_jax.analysis.questions.reconstruction.tokens import TrainingTokens
from regvit_jax.analysis.statistics.fit import Fit, fit
from regvit_jax.preprocess import Preprocess

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
POSITION_LEARNING_RATE = 1e-2  # a convex problem bears larger steps
BATCH_IMAGES = 64
MIN_GAIN = 1e-3
"""An epoch that lowers the held-out score by less than this share does not count as better."""


class Budget(NamedTuple):
    """How long a probe may learn."""

    max_epochs: int = 200
    patience: int = 5
    seed: int = 0
    min_gain: float = 0.0
    """By what share the held-out score must fall to count."""
    label: str = "probe"
    """What progress lines call the model."""
    saved: Path | None = None
    """A folder for fits; they are lost with a stop unless given."""

    def named(self, words: str, name: str) -> "Budget":
        """The budget of one fit: what its progress line says, and its file."""
        saved = None if self.saved is None else self.saved / f"{name}.npz"
        return self._replace(label=f"{self.label}, {words}: epochs", saved=saved)


def fit_mlp(
    known: TrainingTokens, equations: NormalEquations, preprocess: Preprocess, budget: Budget
) -> tuple[Mlp, Fit]:
    """The non-linear probe to pixels: AdamW on the mean squared error, stopped by held-out L2.

    It learns from tokens scaled to mean 0 and variance 1; the scaling is then folded into its
    first layer, so that it reads tokens as they are.
    """
    dim, values = len(equations.feature_mean), len(equations.target_mean)
    mean, sd = (x.astype(np.float32) for x in (equations.feature_mean, equations.feature_sd))

    def loss(params, tokens, pixels):
        error = apply_mlp(params, tokens) - normalised_patches(pixels, preprocess)
        return jnp.mean(jnp.square(error))

    @jax.jit
    def held_out_l2(params, tokens, pixels):
        return token_l2(apply_mlp(params, tokens), normalised_patches(pixels, preprocess)).mean()

    def read(images):
        tokens = (known.rows("tokens", images) - mean[None, None]) / sd[None, None]
        return tokens, known.rows("pixels", images)

    fitted = _fit(
        *(known, read, loss, held_out_l2, start_mlp(dim, HIDDEN_RATIO * dim, values, budget.seed)),
        optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        budget.named("probe to pixels", "mlp"),
    )
    params = jax.tree.map(np.asarray, fitted.params)
    return params | {"fc1": _unscaled(params["fc1"], mean, sd)}, fitted


def fit_position(
    known: TrainingTokens, equations: NormalEquations, num_cells: int, budget: Budget
) -> tuple[Dense, Fit]:
    """Softmax regression to the cell of the grid: Adam, stopped by held-out cross-entropy."""
    mean, sd = (x.astype(np.float32) for x in (equations.feature_mean, equations.feature_sd))

    def loss(params, tokens, cells):
        logits = apply_dense(params, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, cells).mean()

    def read(images):
        tokens = (known.rows("tokens", images) - mean[None, None]) / sd[None, None]
        return tokens, known.rows("cells", images)

    start = {
        "kernel": np.zeros((len(mean), num_cells), np.float32),
        "bias": np.zeros(num_cells, np.float32),
    }
    fitted = _fit(
        *(known, read, loss, jax.jit(loss), start, optax.adam(POSITION_LEARNING_RATE)),
        budget.named("probe to position", "position"),
    )
    return _unscaled(jax.tree.map(np.asarray, fitted.params), mean, sd), fitted


def _fit(known: TrainingTokens, read, loss, held_out, start, optimiser, budget: Budget) -> Fit:
    learned, held = known.split()
    size = min(BATCH_IMAGES, len(learned))

    def batches(epoch: int):
        order = np.random.default_rng((budget.seed, epoch)).permutation(learned)
        for first in range(0, len(order) - size + 1, size):
            yield read(np.sort(order[first : first + size]))

    def score(params) -> float:
        total = 0.0
        for first in range(0, len(held), size):
            images = held[first : first + size]
            total += float(held_out(params, *read(images))) * len(images)
        return total / len(held)

    return fit(
        *(loss, start, batches, score, optimiser, budget.max_epochs, budget.patience),
        min_gain=budget.min_gain,
        label=budget.label,
        saved=budget.saved,
    )


def _unscaled(params: Dense, mean, sd) -> Dense:
    """The layer that reads features as they are, in place of scaled ones."""
    kernel = params["kernel"].astype(np.float64) / sd[:, None]
    bias = params["bias"] - mean.astype(np.float64) @ kernel
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
