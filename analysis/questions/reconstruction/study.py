"""What did the study's notebook compute about reconstruction, faults included?

So that its printed numbers can be checked. The faults that change numbers:

1. training targets cut an image stored by colour planes into runs of 768 values: runs of one
   colour's rows, unrelated to the patch;
2. evaluation targets cut an image stored by pixels: runs of 256 pixels, another layout again;
3. tokens go through the last LayerNorm in evaluation, not in training;
4. in evaluation CLS is cut off before the blocks, so that the transformer runs without it;
5. the threshold is taken from these tokens' norms, and `>=` makes an outlier;
6. early stopping looks at norms over the tokens, not over the pixels of a token;
7. the last parameters are kept, not the best;
8. means of batches are added up, whatever the number of tokens behind them, and what is left of
   the images after full batches of 64 is dropped.

The result says nothing about local content: its errors exceed those of predicting zero.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.questions.reconstruction.learning import (
    BATCH_IMAGES,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Budget,
)
from regvit_jax.analysis.questions.reconstruction.probes import Mlp, apply_mlp
from regvit_jax.analysis.statistics.fit import Fit, fit
from regvit_jax.model import DeiT3
from regvit_jax.patches import unpatchify
from regvit_jax.positions import resample_pos_embed
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout

QUANTILE = 0.98
FAULTS = (
    "training targets: runs of one colour plane, not patches",
    "evaluation targets: runs of pixels, not patches, and not the training layout",
    "evaluation tokens pass the last LayerNorm, training tokens do not",
    "evaluation runs the blocks without CLS (and without registers)",
    "threshold from these tokens' norms, with >=",
    "early stopping on norms over the tokens",
    "the last parameters, not the best",
    "sums of the means of full batches of 64",
)


class PatchesOnly(DeiT3):
    """The network on its patches alone: nothing is put before them."""

    def _embed(self, patches, layout: TokenLayout) -> Float[Array, "b n d"]:
        config = self.config
        return patches + resample_pos_embed(
            self.pos_embed, config.grid, layout.grid, config.pos_resampling
        )


class NotebookErrors(NamedTuple):
    """What the notebook printed."""

    threshold: float
    """98 % quantile of the norms."""
    high: float | None
    """Sum over the batches of the mean squared error of tokens at or above; None for NaN."""
    low: float | None
    """Mean over the other tokens."""
    ratio_percent: float | None
    zero_high: float | None
    """As `high`, for predicting zero."""
    zero_low: float | None
    num_images: int
    num_batches: int
    num_empty_batches: int
    """Without a token at or above the threshold: the notebook's sum becomes NaN."""

    @property
    def printed(self) -> str:
        """The notebook's last line."""
        values = (self.threshold, self.high, self.low)
        threshold, high, low = (f"{float('nan') if v is None else v:.4f}" for v in values)
        ratio = float("nan") if self.ratio_percent is None else self.ratio_percent
        return (
            f"Threshold {threshold}; high-norm tokens {high}, low-norm tokens {low}: "
            f"{ratio:.2f} % (sums of the means of {self.num_batches} batches)"
        )


def training_targets(images: Float[Array, "b h w 3"], num_patches: int) -> Float[Array, "b n v"]:
    """Fault 1: an image stored as (3, h, w), cut into as many runs as there are patches."""
    planes = einops.rearrange(images, "b h w c -> b (c h w)")
    return planes.reshape(planes.shape[0], num_patches, planes.shape[1] // num_patches)


def evaluation_targets(images: Float[Array, "b h w 3"], num_patches: int) -> Float[Array, "b n v"]:
    """Fault 2: an image stored as (h, w, 3), cut into as many runs as there are patches."""
    values = einops.rearrange(images, "b h w c -> b (h w c)")
    return values.reshape(values.shape[0], num_patches, values.shape[1] // num_patches)


def stopping_score(
    predicted: Float[Array, "b n v"], targets: Float[Array, "b n v"]
) -> Float[Array, ""]:
    """Fault 6: the norm over the tokens of each image and pixel value, averaged."""
    return jnp.sqrt(jnp.sum(jnp.square(predicted - targets), axis=1)).mean()


class StudyImages:
    """Tokens and pixels of images in order.

    Args:
      columns: What `patch_tokens` keeps.
      patch_size: Of the model.
      grid: Of its patches.
    """

    def __init__(self, columns: Columns, patch_size: int, grid: tuple[int, int]) -> None:
        self.columns, self.patch_size, self.grid = columns, patch_size, grid

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    def batches(self, size: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        """Tokens (size, n, d) and pixels (size, h, w, 3) of full batches, never shuffled."""
        full = self.columns.num_rows // size
        blocks = self.columns.blocks("tokens", "pixels", rows=size)
        for tokens, patches in itertools.islice(blocks, full):
            yield tokens, unpatchify(patches, self.patch_size, self.grid)


def fit_as_study(
    training: StudyImages,
    validation: StudyImages,
    start: Mlp,
    preprocess: Preprocess,
    budget: Budget,
    batch_images: int = BATCH_IMAGES,
) -> tuple[Mlp, Fit]:
    """The probe after the notebook's training: images in order, wrong targets, last parameters."""

    def error(params, tokens, pixels):
        targets = training_targets(preprocess.normalise(pixels), training.num_patches)
        return apply_mlp(params, tokens), targets

    def loss(params, tokens, pixels):
        predicted, targets = error(params, tokens, pixels)
        return jnp.mean(jnp.square(predicted - targets))

    @jax.jit
    def judged(params, tokens, pixels):
        return stopping_score(*error(params, tokens, pixels))

    def score(params) -> float:
        values = [float(judged(params, *batch)) for batch in validation.batches(batch_images)]
        return float(np.mean(values))

    budget = budget.named("probe", "study")
    fitted = fit(
        loss,
        start,
        lambda epoch: training.batches(batch_images),
        score,
        optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        *(budget.max_epochs, budget.patience),
        keep_best=False,
        label=budget.label,
        saved=budget.saved,
    )
    return jax.tree.map(np.asarray, fitted.params), fitted


def study_errors(probe: Mlp, preprocess: Preprocess) -> Callable[..., tuple[Array, Array, Array]]:
    """A compiled function of tokens (b, n, d) and pixels (b, h, w, 3) in bytes.

    It returns (b, n) arrays: the tokens' norms, the mean squared errors of the probe, and those of
    predicting zero.
    """

    @jax.jit
    def errors(tokens, pixels):
        targets = evaluation_targets(preprocess.normalise(pixels), tokens.shape[1])
        squares = jnp.square(apply_mlp(probe, tokens) - targets)
        norms = jnp.sqrt(jnp.sum(jnp.square(tokens), axis=-1))
        return norms, squares.mean(axis=-1), jnp.square(targets).mean(axis=-1)

    return errors


def notebook_errors(
    norms: Float[np.ndarray, "images n"],
    errors: Float[np.ndarray, "images n"],
    zero_errors: Float[np.ndarray, "images n"],
    batch_images: int = BATCH_IMAGES,
) -> NotebookErrors:
    """Faults 5 and 8: the sums of batch means at and above, and below, the pooled quantile."""
    num_batches = len(norms) // batch_images
    kept = num_batches * batch_images
    norms, errors, zero_errors = (x[:kept].astype(np.float64) for x in (norms, errors, zero_errors))
    threshold = float(np.quantile(norms, QUANTILE))
    is_high = (norms >= threshold).reshape(num_batches, -1)
    sums = {}
    for name, values in (("", errors), ("zero_", zero_errors)):
        for group, chosen in (("high", is_high), ("low", ~is_high)):
            sums[name + group] = _sum_of_means(values.reshape(num_batches, -1), chosen)
    high, low = sums["high"], sums["low"]
    return NotebookErrors(
        threshold,
        high,
        low,
        None if high is None or low is None else 100 * high / low,
        sums["zero_high"],
        sums["zero_low"],
        kept,
        num_batches,
        int((~is_high.any(axis=1)).sum()),
    )


def _sum_of_means(values, chosen) -> float | None:
    """None where a batch is without a chosen token: torch's mean of nothing is NaN."""
    counts = chosen.sum(axis=1)
    if not counts.all():
        return None
    return float(((values * chosen).sum(axis=1) / counts).sum())
