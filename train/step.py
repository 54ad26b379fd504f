"""What happens in one step, and on which devices? The only file that knows of devices.

The state has no device axis: it goes in and comes out once (`in_axes=None`, `out_axes=None`).
JAX hands back device 0's copy without a check, so whatever is returned must be equal on all
devices; the gradient is, after `pmean`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from regvit_jax.checkpoint import Params
from regvit_jax.chunks import chunk_size
from regvit_jax.drop_path import draw_drop_path
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, init_params
from regvit_jax.preprocess import Preprocess
from train.augment import random_flip
from train.losses import loss_of
from train.recipe import Recipe
from train.state import TrainState

AXIS = "data"
INIT_STREAM = 0x1217


class TrainBatch(NamedTuple):
    """The images of one step."""

    pixels: UInt8[Array | np.ndarray, "b h w 3"]
    labels: Int[Array | np.ndarray, " b"]


class StepMetrics(NamedTuple):
    """What a step tells of itself."""

    loss: Float[Array, ""]
    """Mean over the global batch, before the update."""
    grad_norm: Float[Array, ""]
    """Over all tensors, before clipping."""


TrainStep = Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]


def check_devices(batch_size: int) -> None:
    """Raises unless the devices can share a batch equally.

    Raises:
      InputError: If they cannot.
    """
    if batch_size % (count := jax.device_count()):
        raise InputError(
            f"A batch of {batch_size} images cannot be shared equally by {count} devices. Choose a "
            f"--batch-size that {count} divides, for example {-(-batch_size // count) * count}."
        )


def make_train_step(
    model: DeiT3, optimizer: optax.GradientTransformation, recipe: Recipe, preprocess: Preprocess
) -> TrainStep:
    """Returns `step(state, batch) -> (state, metrics)`; the state that goes in is used up."""
    batch_loss = make_batch_loss(model, recipe, preprocess)

    def step(state: TrainState, batch: TrainBatch, rng: Key[Array, ""]):
        size = batch.labels.shape[0]
        first = jax.lax.axis_index(AXIS) * size
        rngs = image_keys(rng, state.step, first + jnp.arange(size))
        loss, grads = jax.lax.pmean(mean_gradient(batch_loss, state.params, batch, rngs), AXIS)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = StepMetrics(loss, optax.tree.norm(grads))
        return TrainState(state.step + 1, params, opt_state), metrics

    mapped = jax.pmap(step, AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=0)
    rng = jax.random.key(recipe.seed)
    return lambda state, batch: mapped(state, shard(batch), rng)


def image_keys(
    rng: Key[Array, ""], step: Int[Array, ""], indices: Int[Array, " b"]
) -> Key[Array, " b"]:
    """A key for each image: of the step and of its index in the global batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.fold_in(rng, step), indices)


BatchLoss = Callable[[Params, TrainBatch, Array], Array]


def make_batch_loss(model: DeiT3, recipe: Recipe, preprocess: Preprocess) -> BatchLoss:
    """Returns `batch_loss(params, batch, rngs)`, the losses of the images added up."""
    loss, config = loss_of(recipe), model.config

    def batch_loss(params: Params, batch: TrainBatch, rngs: Key[Array, " b"]) -> Float[Array, ""]:
        for_flip, for_drop_path = jax.vmap(jax.random.split, out_axes=1)(rngs)
        pixels = jnp.asarray(batch.pixels)
        pixels = random_flip(for_flip, pixels) if recipe.data.flip else pixels
        drop_path = draw_drop_path(for_drop_path, config.drop_path_rate, config.depth)
        logits: Any = model.apply({"params": params}, preprocess.normalise(pixels), drop_path)
        return loss(logits, jnp.asarray(batch.labels)).sum()

    return batch_loss


def mean_gradient(
    batch_loss: BatchLoss, params: Params, batch: TrainBatch, rngs: Key[Array, " b"]
) -> tuple[Float[Array, ""], Params]:
    """The loss and its gradient, averaged over the images of one device.

    On a CPU they are added up over chunks: less memory, and it stays in the cache. Nothing is
    approximated, since no image's loss depends on another image.
    """
    size = batch.labels.shape[0]
    count = size // _chunk_size(size, params, batch.pixels.shape)
    chunks = jax.tree.map(lambda x: x.reshape(count, size // count, *x.shape[1:]), (batch, rngs))

    def add(total, chunk):
        return jax.tree.map(jnp.add, total, jax.value_and_grad(batch_loss)(params, *chunk)), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    if count == 1:
        total = jax.value_and_grad(batch_loss)(params, batch, rngs)
    else:
        total, _ = jax.lax.scan(add, zero, chunks)
    return jax.tree.map(lambda x: x / size, total)


def _chunk_size(size: int, params: Params, shape: tuple[int, ...]) -> int:
    """Images of a chunk: the most that divide the batch and fit into a CPU's cache."""
    patch = params["patch_embed"]["kernel"].shape[0]
    limit = chunk_size(size, num_tokens=(shape[1] // patch) * (shape[2] // patch))
    return max(count for count in range(1, limit + 1) if size % count == 0)


@functools.cache  # every evaluation of a run uses the program of the first
def make_rank_step(model: DeiT3, preprocess: Preprocess) -> Callable[[Params, TrainBatch], Array]:
    """Returns `ranks(params, batch)`: how many classes each image's own one does not beat.

    0 is a right answer, below 5 is right among the top 5. An equal score counts against the image,
    as does a score that is not a number.
    """

    def ranks(params: Params, batch: TrainBatch) -> Int[Array, " b"]:
        logits: Any = model.apply({"params": params}, preprocess.normalise(batch.pixels))
        own = jnp.take_along_axis(logits, jnp.maximum(batch.labels, 0)[:, None], axis=1)
        return jnp.sum(~(logits < own), axis=1) - 1

    mapped = jax.pmap(ranks, AXIS, in_axes=(None, 0))
    return lambda params, batch: mapped(params, shard(batch)).reshape(-1)


def shard(batch: TrainBatch) -> TrainBatch:
    """The batch with a leading axis of local devices."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


def first_state(model: DeiT3, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step, the same on every machine."""
    # Folded so that the parameters share no random numbers with the steps.
    rng = jax.random.fold_in(jax.random.key(seed), INIT_STREAM)
    params = init_params(model, rng)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
