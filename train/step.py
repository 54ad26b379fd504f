"""What happens in one step, and how do devices share it?

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, UInt8

from regvit_jax.checkpoint import Params
from regvit_jax.chunks import chunk_size
from regvit_jax.drop_path import draw_drop_path
from regvit_jax.errors import InputError
from regvit_jax.memory import release_free_memory
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.augment import augment, draw_augment
from regvit_jax.train.losses import LOSSES, targets_of
from regvit_jax.train.mixing import Mix, draw_mixes, mix_images, mix_targets
from regvit_jax.train.optim import READOUT, is_trained
from regvit_jax.train.recipe import DataConfig, Recipe, Trainable
from regvit_jax.train.state import TrainState
from regvit_jax.train.token_labels import Tokens, seen_targets, token_loss, without_readout

AXIS = "data"
INIT_STREAM = 0x1217


class TrainBatch(NamedTuple):
    """The images of one step."""

    pixels: UInt8[Array | np.ndarray, "b h w 3"]
    labels: Int[Array | np.ndarray, " b"]
    tokens: Tokens | None = None
    """Targets of the patches, if the recipe has a token loss."""


class StepMetrics(NamedTuple):
    """What a step tells of itself."""

    loss: Float[Array, ""]
    """Mean over the global batch, before the update."""
    grad_norm: Float[Array, ""]
    """Over all tensors, before clipping."""


TrainStep = Callable[[TrainState, TrainBatch], tuple[TrainState, StepMetrics]]


class Draws(NamedTuple):
    """What chance decides for the images of a batch."""

    rngs: Key[Array, " b"]
    """One key per image, for all that happens to it alone."""
    mix: Mix | None
    """How each is mixed with its neighbour, if images are mixed."""


def check_devices(data: DataConfig) -> None:
    """Raises unless the devices can share a batch equally, and no pair of mixed images is torn.

    Raises:
      InputError: If they cannot.
    """
    count = jax.device_count()
    unit = 2 * count if data.is_mixed else count
    if data.batch_size % unit:
        pairs = " in pairs" if data.is_mixed else ""
        raise InputError(
            f"A batch of {data.batch_size} images cannot be shared equally{pairs} by {count} "
            f"devices. Choose a --batch-size that {unit} divides, for example "
            f"{-(-data.batch_size // unit) * unit}."
        )


def make_train_step(
    model: DeiT3, optimizer: optax.GradientTransformation, recipe: Recipe, preprocess: Preprocess
) -> TrainStep:
    """Returns `step(state, batch) -> (state, metrics)`; the state that goes in is used up."""
    batch_loss = make_batch_loss(model, recipe, preprocess)
    decay = recipe.optim.ema_decay

    def step(state: TrainState, batch: TrainBatch, rng: Key[Array, ""]):
        size = batch.labels.shape[0]
        indices = jax.lax.axis_index(AXIS) * size + jnp.arange(size)
        draws = draw(jax.random.fold_in(rng, state.step), indices, recipe)
        parts = recipe.accumulation_steps
        found = mean_gradient(batch_loss, state.params, batch, draws, parts)
        loss, grads = jax.lax.pmean(found, AXIS) if jax.device_count() > 1 else found
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = None if state.ema is None else optax.incremental_update(params, state.ema, 1 - decay)
        metrics = StepMetrics(loss, optax.tree.norm(grads))
        return TrainState(state.step + 1, params, opt_state, ema), metrics

    # Of several processes, JAX 0.10's pmap deletes a donated state before it has read all of it.
    donated = (0,) if jax.process_count() == 1 else ()
    mapped = jax.pmap(
        step, AXIS, in_axes=(None, 0, None), out_axes=(None, None), donate_argnums=donated
    )
    rng, is_compiled = jax.random.key(recipe.seed), False

    def take(state: TrainState, batch: TrainBatch) -> tuple[TrainState, StepMetrics]:
        nonlocal is_compiled
        arguments = on_all_devices(state), shard(batch), rng
        if not is_compiled:
            mapped.lower(*arguments).compile()
            release_free_memory()  # as much as the step itself needs
            is_compiled = True
        return mapped(*arguments)

    return take


def on_all_devices(state: TrainState) -> TrainState:
    """The state, placed as a step returns it; placed otherwise, it would compile the step anew."""
    devices = NamedSharding(Mesh(np.array(jax.devices()), (AXIS,)), PartitionSpec())
    if getattr(state.step, "sharding", None) == devices:
        return state
    if jax.process_count() == 1:
        return jax.device_put(state, devices)
    return jax.tree.map(
        lambda leaf: jax.make_array_from_process_local_data(devices, np.asarray(leaf)), state
    )


def draw(rng: Key[Array, ""], indices: Int[Array, " b"], recipe: Recipe) -> Draws:
    """What chance decides for some images of a batch.

    Args:
      rng: Of the step.
      indices: Of the images in the global batch; on them alone depends what is drawn.
      recipe: Says whether images are mixed, and in which groups.
    """
    rngs = jax.vmap(jax.random.fold_in, (None, 0))(rng, indices)
    if not recipe.data.is_mixed:
        return Draws(rngs, None)
    groups = indices // recipe.data.group_size
    return Draws(rngs, draw_mixes(rng, groups, recipe.model.image_size, recipe.data))


BatchLoss = Callable[[Params, TrainBatch, Draws], Array]


def make_batch_loss(model: DeiT3, recipe: Recipe, preprocess: Preprocess) -> BatchLoss:
    """Returns `batch_loss(params, batch, draws)`, the losses of the images added up."""
    loss, config = LOSSES[recipe.loss], model.config
    patches = model.layout(config.image_shape).patches

    def batch_loss(params: Params, batch: TrainBatch, draws: Draws) -> Float[Array, ""]:
        for_augment, for_drop_path = jax.vmap(jax.random.split, out_axes=1)(draws.rngs)
        pixels = augment(for_augment, jnp.asarray(batch.pixels), recipe.data)
        images = preprocess.normalise(pixels)
        targets = targets_of(jnp.asarray(batch.labels), config.num_classes, recipe.label_smoothing)
        if draws.mix is not None:
            images = mix_images(images, draws.mix)
            targets = mix_targets(targets, draws.mix)
        drop_path = draw_drop_path(for_drop_path, config.drop_path_rate, config.depth)
        params = freeze(params, recipe.trainable)
        if not recipe.token_loss:
            logits: Any = model.apply({"params": params}, images, drop_path)
            return loss(logits, targets).sum()
        readout, variables = params[READOUT], {"params": without_readout(params)}
        trace: Any = model.apply(variables, images, (), None, drop_path, method="trace")
        is_flipped = draw_augment(for_augment, recipe.data).is_flipped if recipe.data.flip else None
        assert batch.tokens is not None
        wanted = seen_targets(batch.tokens, readout["bias"].shape[0], is_flipped, draws.mix, recipe)
        of_tokens = token_loss(readout, trace.normed[:, patches], wanted)
        return (loss(trace.logits, targets) + recipe.token_loss * of_tokens).sum()

    return batch_loss


def freeze(params: Params, trainable: Trainable) -> Params:
    """The parameters, of which those that do not learn have no gradient."""
    if trainable == "all":
        return params

    def stop(path: tuple[Any, ...], leaf: Any) -> Any:
        return leaf if is_trained(path, trainable) else jax.lax.stop_gradient(leaf)

    return jax.tree_util.tree_map_with_path(stop, params)


def mean_gradient(
    batch_loss: BatchLoss, params: Params, batch: TrainBatch, draws: Draws, parts: int = 1
) -> tuple[Float[Array, ""], Params]:
    """The loss and its gradient, averaged over the images of one device.

    On a CPU, and where it is asked for, they are added up over chunks: less memory, and it stays in
    the cache. Nothing is approximated, since no image's loss depends on another's, but for pairs
    that are mixed, and these stay together.

    Args:
      batch_loss: The losses of some images added up.
      params: Of the network.
      batch: Images of one device.
      draws: What chance decided for them.
      parts: Least number of chunks. All chunks have one size, so that there may be more.
    """
    size = batch.labels.shape[0]
    limit = min(_fitting(size, params, batch.pixels.shape), max(1, size // parts))
    unit = 1 if draws.mix is None else 2
    whole = [n for n in range(unit, max(limit, unit) + 1, unit) if size % n == 0]
    count = size // max(whole)
    if count == 1:
        total = jax.value_and_grad(batch_loss)(params, batch, draws)
    else:
        chunks = jax.tree.map(
            lambda x: x.reshape(count, size // count, *x.shape[1:]), (batch, draws)
        )

        def add(total, chunk):
            found = jax.value_and_grad(batch_loss)(params, *chunk)
            return jax.tree.map(jnp.add, total, found), None

        zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zero, chunks)
    return jax.tree.map(lambda x: x / size, total)


def _fitting(size: int, params: Params, shape: tuple[int, ...]) -> int:
    """Images whose activations fit into a CPU's cache."""
    patch = params["patch_embed"]["kernel"].shape[0]
    return chunk_size(size, num_tokens=(shape[1] // patch) * (shape[2] // patch))


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

    mapped = jax.pmap(ranks, AXIS, in_axes=(None, 0), devices=jax.local_devices())
    return lambda params, batch: mapped(params, shard(batch)).reshape(-1)


def shard(batch: TrainBatch) -> TrainBatch:
    """The batch with a leading axis of local devices."""
    count = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(count, x.shape[0] // count, *x.shape[1:]), batch)


def first_state(
    params: Params, optimizer: optax.GradientTransformation, recipe: Recipe
) -> TrainState:
    """The state before the first step."""
    # A copy: a step uses up both.
    ema = jax.tree.map(jnp.copy, params) if recipe.optim.ema_decay else None
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), ema)


def init_rng(seed: int) -> Key[Array, ""]:
    """For the start values, which share no random numbers with the steps."""
    return jax.random.fold_in(jax.random.key(seed), INIT_STREAM)
