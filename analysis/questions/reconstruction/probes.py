"""How much of its pixels and of its position does a patch token still hold?

Probes read a token of a frozen network and predict the pixels of its patch, or its place in the
grid. They learn on the training part of the data and are judged on the validation part, on the same
tensor: the stream after a block, before the last LayerNorm. The network runs once over each part
and hands over arrays, so that no gradient ever reaches it.

- Pixels, linear (primary): exact least squares, from sums over one pass in float64.
- Pixels, non-linear: dense, exact GELU, dense; the study's layers.
- Position, linear: softmax regression to the grid cell.

Pixels are predicted in the model's normalised space, channel by channel, in `patchify`'s order.

Reference: arXiv:2309.16588, section 2.2, for the linear probes.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, UInt8

from regvit_jax.analysis.engine.store import ColumnStore
from regvit_jax.analysis.questions.norms.norms import last_norms
from regvit_jax.analysis.statistics.fit import Fit, fit
from regvit_jax.errors import InputError
from regvit_jax.model import ViTTrace
from regvit_jax.npz import read_npz
from regvit_jax.preprocess import Preprocess
from regvit_jax.strict_json import parse_json
from regvit_jax.tokens import TokenLayout

RIDGE = 1e-8
"""Strength on features scaled to unit variance: it only tames directions that hold nothing."""
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.01
POSITION_LEARNING_RATE = 1e-2  # a convex problem bears larger steps
BATCH_IMAGES = 64
HELD_OUT = 0.1
"""Share of the training images on which early stopping looks."""
HIDDEN_RATIO = 4
LAYERS = ("fc1", "fc2")
PROBE_EXPECTED = "Expected what `regvit-convert import` makes of the study's probe."

Dense = dict[str, Any]
"""A kernel (in, out) and a bias (out)."""
Mlp = dict[str, Dense]


class Features(NamedTuple):
    """What is kept of a batch."""

    tokens: Float[Array, "b n d"]
    """The patches in the chosen layer."""
    last: Float[Array, "b n"]
    """Norms of the patches after the last block, by which outliers are told."""


class Probes(NamedTuple):
    """What was learned from one model's training tokens."""

    linear: Dense
    """To the pixels of the patch."""
    mlp: Mlp | None
    position: Dense
    """To the logits of the grid's cells."""
    channel_means: Float[np.ndarray, "3"]
    """Of the training pixels, normalised: the predictor that knows nothing."""


def patch_features(layer: int) -> Callable[[ViTTrace, TokenLayout], Features]:
    """A reduction that keeps the patches of one block's output.

    Args:
      layer: Block from 0.
    """

    def reduce(trace: ViTTrace, layout: TokenLayout) -> Features:
        chosen = trace.blocks[layer]
        assert chosen is not None
        tokens = chosen.tokens[:, layout.patches].astype(jnp.float32)
        return Features(tokens, last_norms(trace, layout))

    return reduce


class NormalEquations:
    """Sums over tokens from which least squares follow, in float64."""

    def __init__(self, num_features: int, num_targets: int) -> None:
        self.num_tokens = 0
        self._features = np.zeros(num_features)
        self._targets = np.zeros(num_targets)
        self._squares = np.zeros((num_features, num_features))
        self._products = np.zeros((num_features, num_targets))
        self._origin: np.ndarray | None = None

    def add(
        self,
        features: Float[np.ndarray, "tokens d"],
        targets: Float[np.ndarray, "tokens v"],
    ) -> None:
        """Takes in some tokens."""
        x, y = features.astype(np.float64), targets.astype(np.float64)
        if self._origin is None:
            self._origin = x.mean(axis=0)  # sums about a point near the mean lose fewer digits
        x -= self._origin[None]
        self.num_tokens += x.shape[0]
        self._features += x.sum(axis=0)
        self._targets += y.sum(axis=0)
        self._squares += x.T @ x
        self._products += x.T @ y

    @property
    def feature_mean(self) -> Float[np.ndarray, " d"]:
        assert self._origin is not None
        return self._features / self.num_tokens + self._origin

    @property
    def feature_sd(self) -> Float[np.ndarray, " d"]:
        """Standard deviations; 1 for a feature that never changes."""
        sd = np.sqrt(np.maximum(np.diag(self._covariance()), 0))
        return np.where(sd > 1e-12 * (1 + np.abs(self.feature_mean)), sd, 1.0)

    @property
    def target_mean(self) -> Float[np.ndarray, " v"]:
        return self._targets / self.num_tokens

    def solve(self, ridge: float = RIDGE) -> Dense:
        """The kernel and bias of least squares, float32.

        Args:
          ridge: Penalty on the kernel for features of unit variance; none on the bias.
        """
        mean, sd = self._features / self.num_tokens, self.feature_sd
        crossed = self._products / self.num_tokens - mean[:, None] * self.target_mean[None]
        correlation = self._covariance() / (sd[:, None] * sd[None])
        correlation += ridge * np.eye(len(sd))
        kernel = np.linalg.solve(correlation, crossed / sd[:, None]) / sd[:, None]
        bias = self.target_mean - self.feature_mean @ kernel
        return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}

    def _covariance(self):
        mean = self._features / self.num_tokens
        return self._squares / self.num_tokens - mean[:, None] * mean[None]


def normalised_patches(
    patches: UInt8[Array | np.ndarray, "*b v"], preprocess: Preprocess
) -> Float[Array, "*b v"]:
    """The targets: what the model sees of each patch."""
    colours = patches.reshape(*patches.shape[:-1], 1, patches.shape[-1] // 3, 3)
    return preprocess.normalise(colours).reshape(patches.shape)


def apply_dense(params: Dense, x: Float[Array | np.ndarray, "*b i"]) -> Float[Array, "*b o"]:
    """One dense layer."""
    out = jnp.matmul(x, params["kernel"], precision="highest")
    return out + jnp.reshape(params["bias"], (1,) * (out.ndim - 1) + (-1,))


def apply_mlp(params: Mlp, x: Float[Array | np.ndarray, "*b i"]) -> Float[Array, "*b o"]:
    """Dense, exact GELU, dense."""
    hidden = jax.nn.gelu(apply_dense(params["fc1"], x), approximate=False)
    return apply_dense(params["fc2"], hidden)


def token_l2(
    predicted: Float[Array | np.ndarray, "*b v"], targets: Float[Array | np.ndarray, "*b v"]
) -> Float[Array, "*b"]:
    """The L2 norm of each token's error, over the pixel values of its patch."""
    return jnp.sqrt(jnp.sum(jnp.square(predicted - targets), axis=-1))


class TokenCache:
    """Training tokens on disk: of every image the same number of patches, drawn at random.

    Args:
      store: With the columns of `columns`; rows are images.
      tokens_per_image: How many.
    """

    def __init__(self, store: ColumnStore, tokens_per_image: int, seed: int) -> None:
        self.store, self.tokens_per_image, self.seed = store, tokens_per_image, seed

    @staticmethod
    def columns(tokens_per_image: int, dim: int, patch_values: int) -> dict[str, tuple[int, Any]]:
        """Float32 tokens, the pixels of their patches as they were decoded, and their cells."""
        return {
            "tokens": (tokens_per_image * dim, np.float32),
            "pixels": (tokens_per_image * patch_values, np.uint8),
            "cells": (tokens_per_image, np.int32),
        }

    def add(
        self,
        tokens: Float[np.ndarray, "b n d"],
        patches: UInt8[np.ndarray, "b n v"],
        indices: Int[np.ndarray, " b"],
    ) -> None:
        """Takes in a batch; which patches depends on the seed and the image's index."""
        num_patches = tokens.shape[1]
        cells = np.stack([self._drawn(int(index), num_patches) for index in indices])
        self.store.append(
            {
                "tokens": np.take_along_axis(tokens, cells[:, :, None], axis=1),
                "pixels": np.take_along_axis(patches, cells[:, :, None], axis=1),
                "cells": cells,
            }
        )

    def _drawn(self, index: int, num_patches: int):
        if self.tokens_per_image == num_patches:
            return np.arange(num_patches)
        generator = np.random.default_rng((self.seed, index))
        return np.sort(generator.choice(num_patches, self.tokens_per_image, replace=False))

    def rows(self, name: str, images: Int[np.ndarray, " images"]) -> np.ndarray:
        """A column of some images: (images, tokens) or (images, tokens, values)."""
        rows = self.store.mapped(name)[images]
        return rows.reshape(len(images), self.tokens_per_image, -1)

    def split(self) -> tuple[Int[np.ndarray, " learned"], Int[np.ndarray, " held"]]:
        """The images to learn from, and those held out for early stopping.

        Raises:
          InputError: If there are too few images.
        """
        total = self.store.num_rows
        if total < 2:
            raise InputError(f"Probes need at least 2 training images, got {total}.")
        order = np.random.default_rng((self.seed, total)).permutation(total)
        num_held = max(1, round(HELD_OUT * total))
        return np.sort(order[num_held:]), np.sort(order[:num_held])


class Budget(NamedTuple):
    """How long a probe may learn."""

    max_epochs: int = 200
    patience: int = 5
    seed: int = 0
    min_gain: float = 0.0
    """By what share the held-out score must fall to count."""
    label: str = "probe"
    """What progress lines call the model."""


def fit_mlp(
    cache: TokenCache, equations: NormalEquations, preprocess: Preprocess, budget: Budget
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
        tokens = (cache.rows("tokens", images) - mean[None, None]) / sd[None, None]
        return tokens, cache.rows("pixels", images)

    fitted = _fit(
        *(cache, read, loss, held_out_l2, start_mlp(dim, HIDDEN_RATIO * dim, values, budget.seed)),
        optax.adamw(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        budget._replace(label=f"{budget.label}, probe to pixels: epochs"),
    )
    params = jax.tree.map(np.asarray, fitted.params)
    return params | {"fc1": _unscaled(params["fc1"], mean, sd)}, fitted


def fit_position(
    cache: TokenCache, equations: NormalEquations, num_cells: int, budget: Budget
) -> tuple[Dense, Fit]:
    """Softmax regression to the cell of the grid: Adam, stopped by held-out cross-entropy."""
    mean, sd = (x.astype(np.float32) for x in (equations.feature_mean, equations.feature_sd))

    def loss(params, tokens, cells):
        logits = apply_dense(params, tokens)
        return optax.softmax_cross_entropy_with_integer_labels(logits, cells).mean()

    def read(images):
        tokens = (cache.rows("tokens", images) - mean[None, None]) / sd[None, None]
        return tokens, cache.rows("cells", images)[..., 0]

    start = {
        "kernel": np.zeros((len(mean), num_cells), np.float32),
        "bias": np.zeros(num_cells, np.float32),
    }
    fitted = _fit(
        *(cache, read, loss, jax.jit(loss), start, optax.adam(POSITION_LEARNING_RATE)),
        budget._replace(label=f"{budget.label}, probe to position: epochs"),
    )
    return _unscaled(jax.tree.map(np.asarray, fitted.params), mean, sd), fitted


def start_mlp(inputs: int, hidden: int, outputs: int, seed: int) -> Mlp:
    """Start values of the non-linear probe: torch's default for dense layers."""
    generator = np.random.default_rng(seed)
    params = {}
    for name, (rows, cols) in zip(LAYERS, ((inputs, hidden), (hidden, outputs)), strict=True):
        bound = rows**-0.5
        kernel, bias = (generator.uniform(-bound, bound, s) for s in ((rows, cols), (cols,)))
        params[name] = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
    return params


def save_probe(path: Path, probe: Mlp, info: Mapping[str, Any]) -> None:
    """Writes a non-linear probe: an `.npz` file of float32 arrays.

    Keys: fc1/kernel (in, hidden), fc1/bias, fc2/kernel (hidden, out), fc2/bias, and "info", a JSON
    text that says where the probe comes from.
    """
    arrays = {f"{layer}/{name}": probe[layer][name] for layer in LAYERS for name in probe[layer]}
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays, info=np.array(json.dumps(dict(info))))


def load_probe(path: Path) -> tuple[Mlp, dict[str, Any]]:
    """The probe that `save_probe` or `regvit-convert import` wrote, and its info.

    Raises:
      InputError: If the file is absent, damaged or no probe.
    """
    try:
        arrays = read_npz(path)
        info = parse_json(str(arrays.pop("info", "{}")), f"{path}: info")
    except FileNotFoundError:
        raise InputError(f"There is no probe {path}. {PROBE_EXPECTED}") from None
    except InputError as error:
        raise InputError(f"{path} is no probe, or damaged ({error}) {PROBE_EXPECTED}") from error
    names = {f"{layer}/{name}" for layer in LAYERS for name in ("kernel", "bias")}
    if arrays.keys() != names:
        raise InputError(f"{path} holds {sorted(arrays)}, not {sorted(names)}. {PROBE_EXPECTED}")
    probe = {
        layer: {name: arrays[f"{layer}/{name}"] for name in ("kernel", "bias")} for layer in LAYERS
    }
    _check_probe(path, probe)
    return probe, info


def _check_probe(path: Path, probe: Mlp) -> None:
    shapes = {k: [probe[k][name].shape for name in ("kernel", "bias")] for k in LAYERS}
    first, second = shapes["fc1"], shapes["fc2"]
    fits = len(first[0]) == len(second[0]) == 2 and first[0][1] == second[0][0]
    if not fits or any(bias != kernel[1:] for kernel, bias in shapes.values()):
        raise InputError(
            f"{path} is no probe: its layers do not fit one another ({shapes}). {PROBE_EXPECTED}"
        )
    if any(layer[name].dtype != np.float32 for layer in probe.values() for name in layer):
        raise InputError(f"{path} is no probe: expected float32 arrays. {PROBE_EXPECTED}")


def _fit(cache: TokenCache, read, loss, held_out, start, optimiser, budget: Budget) -> Fit:
    learned, held = cache.split()
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
    )


def _unscaled(params: Dense, mean, sd) -> Dense:
    """The layer that reads features as they are, in place of scaled ones."""
    kernel = params["kernel"].astype(np.float64) / sd[:, None]
    bias = params["bias"] - mean.astype(np.float64) @ kernel
    return {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
