"""Do four devices do what one would, and what a hand-written step would?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from regvit_jax.checkpoint import flatten
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, init_params
from regvit_jax.train.optim import make_optimizer
from regvit_jax.train.recipe import DataConfig
from regvit_jax.train.state import TrainState
from regvit_jax.train.step import (
    Draws,
    TrainBatch,
    check_devices,
    draw,
    init_rng,
    make_batch_loss,
    make_rank_step,
    make_train_step,
    mean_gradient,
)
from regvit_jax.ways import CPU, taking

# One float32 rounding of the gradient's sum over 8 images, times the rate; measured 3e-8.
PMAP_ATOL = 2e-7
RATE = 0.1
COMPILATION = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def model(recipe):
    return DeiT3(recipe.model)


@pytest.fixture(scope="module")
def params(model):
    return jax.tree.map(np.array, init_params(model, init_rng(0)))


def one_step(model, params, recipe, preprocess, batch):
    """State and metrics after one SGD step on four devices."""
    optimizer = optax.sgd(RATE)
    state = TrainState(np.zeros((), np.int32), params, optimizer.init(params))
    return make_train_step(model, optimizer, recipe, preprocess)(state, batch)


@pytest.fixture(scope="module")
def stepped(model, params, recipe, preprocess, batch):
    return one_step(model, params, recipe, preprocess, batch)


@pytest.fixture(scope="module")
def ranks_of(model, preprocess):
    return make_rank_step(model, preprocess)


def sgd_by_hand(model, params, preprocess, batch):
    """Loss and parameters of one step on the whole batch: no pmap, no optax, no chunks."""

    def loss(params):
        drop_path = jnp.ones((8, model.config.depth, 2))
        logits = model.apply({"params": params}, preprocess.normalise(batch.pixels), drop_path)
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), batch.labels[:, None], axis=1)
        return -own.mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)))
    return value, norm, jax.tree.map(lambda p, g: p - RATE * g, params, grads)


def test_the_step_on_four_devices_equals_one_device_on_the_whole_batch(
    model, params, preprocess, batch, stepped
):
    after, metrics = stepped
    loss, norm, expected = sgd_by_hand(model, params, preprocess, batch)
    assert jax.local_device_count() == 4
    np.testing.assert_allclose(metrics.loss, loss, rtol=0, atol=1e-6)
    np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-5)
    for got, want in zip(jax.tree.leaves(after.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=PMAP_ATOL)


def test_every_device_holds_the_same_parameters_after_a_step(stepped):
    for leaf in jax.tree.leaves(stepped[0].params):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        assert all(np.array_equal(copies[0], copy) for copy in copies)


@pytest.mark.parametrize(
    "changes",
    [
        {"drop_path_rate": 0.4, "flip": True},
        {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "mix_group": 4, "colour_jitter": 0.3},
    ],
    ids=["drop-path and flips", "mixing and colours"],
)
def test_what_is_random_does_not_depend_on_devices(
    params, recipe, preprocess, batch, change, changes
):
    """Four devices of two images against one gradient of all eight, with the images' own draws."""
    recipe = change(recipe, **changes)
    model = DeiT3(recipe.model)
    after, _ = one_step(model, params, recipe, preprocess, batch)
    rng = jax.random.fold_in(jax.random.key(recipe.seed), jnp.zeros((), jnp.int32))
    draws = draw(rng, jnp.arange(8), recipe)
    whole = jax.tree.map(jnp.asarray, batch)
    grads = jax.jit(jax.grad(make_batch_loss(model, recipe, preprocess)))(params, whole, draws)
    for got, start, grad in zip(
        *(jax.tree.leaves(tree) for tree in (after.params, params, grads)), strict=True
    ):
        np.testing.assert_allclose(got, start - RATE * grad / 8, rtol=0, atol=PMAP_ATOL)


def test_parts_one_after_the_other_give_the_same_step(
    model, params, recipe, preprocess, batch, change, stepped
):
    after, metrics = one_step(
        model, params, change(recipe, accumulation_steps=2), preprocess, batch
    )
    np.testing.assert_allclose(metrics.loss, stepped[1].loss, rtol=0, atol=1e-6)
    for got, want in zip(*map(jax.tree.leaves, (after.params, stepped[0].params)), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=PMAP_ATOL)


def test_a_step_is_compiled_once(params, recipe, preprocess, batch):
    optimizer = optax.sgd(RATE)
    state = TrainState(np.zeros((), np.int32), params, optimizer.init(params))
    step = make_train_step(DeiT3(recipe.model), optimizer, recipe, preprocess)
    events: list[str] = []

    def listen(name: str, *_, **__) -> None:
        events.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        state, _ = step(jax.tree.map(np.copy, state), batch)
        assert COMPILATION in events
        events.clear()
        step(state, batch)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert COMPILATION not in events


def test_the_moving_average_follows_the_parameters(params, recipe, preprocess, batch, change):
    recipe = change(recipe, ema_decay=0.75)
    optimizer = optax.sgd(RATE)
    state = TrainState(np.zeros((), np.int32), params, optimizer.init(params), params)
    step = make_train_step(DeiT3(recipe.model), optimizer, recipe, preprocess)
    after, _ = step(jax.tree.map(np.copy, state), batch)
    for average, start, now in zip(
        *map(jax.tree.leaves, (after.ema, params, after.params)), strict=True
    ):
        np.testing.assert_allclose(average, 0.75 * start + 0.25 * now, rtol=0, atol=1e-6)


def test_what_is_frozen_stays_and_what_is_not_moves(params, recipe, preprocess, batch, change):
    recipe = change(recipe, trainable="registers")
    optimizer = make_optimizer(recipe.optim, lambda _: 1e-2, recipe.trainable)
    state = TrainState(np.zeros((), np.int32), params, optimizer.init(params))
    step = make_train_step(DeiT3(recipe.model), optimizer, recipe, preprocess)
    after, metrics = step(jax.tree.map(np.copy, state), batch)
    assert float(metrics.grad_norm) > 0
    for name, leaf in flatten(after.params).items():
        is_same = np.array_equal(leaf, flatten(params)[name])
        assert is_same == (name != "reg_tokens"), name


def test_chunks_add_up_to_the_gradient_of_the_whole_batch(batch):
    """On a loss with a closed form: the mean over images of (weight . pixels - label)^2."""
    params = {"patch_embed": {"kernel": jnp.full((8, 8, 3, 1), 0.01)}, "bias": jnp.ones(3)}
    draws = Draws(jax.random.split(jax.random.key(0), 8), None)
    means = np.asarray(batch.pixels, np.float64).mean((1, 2)) / 255
    residuals = means.sum(1) - batch.labels

    def batch_loss(params, batch, draws):
        means = jnp.asarray(batch.pixels, jnp.float32).mean((1, 2)) / 255
        return ((means @ params["bias"] - batch.labels) ** 2).sum()

    with taking(CPU._replace(tokens_together=48)):  # three images, of which two divide
        loss, grads = mean_gradient(batch_loss, params, jax.tree.map(jnp.asarray, batch), draws)
    np.testing.assert_allclose(loss, (residuals**2).mean(), rtol=0, atol=1e-5)
    expected = (2 * residuals[:, None] * means).mean(0)
    np.testing.assert_allclose(grads["bias"], expected, rtol=0, atol=1e-5)


def test_images_and_steps_have_keys_of_their_own(recipe):
    rng = jax.random.key(0)
    steps = [draw(jax.random.fold_in(rng, step), jnp.arange(4), recipe).rngs for step in (0, 1)]
    keys = np.concatenate([jax.random.key_data(rngs) for rngs in steps])
    assert len({tuple(key) for key in keys.tolist()}) == 8


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(InputError, match=r"30 images .* 4 devices.*example 32"):
        check_devices(DataConfig(batch_size=30))
    with pytest.raises(InputError, match=r"12 images .*in pairs by 4 devices.*8 divides.*16"):
        check_devices(DataConfig(batch_size=12, mixup_alpha=0.8))


def test_ranks_count_the_classes_that_are_not_beaten(model, params, preprocess, batch, ranks_of):
    apply = jax.jit(lambda params, images: model.apply({"params": params}, images))
    logits = np.asarray(apply(params, preprocess.normalise(batch.pixels)))
    order = np.argsort(-logits, axis=1)
    expected = [list(row).index(label) for row, label in zip(order, batch.labels, strict=True)]
    np.testing.assert_array_equal(ranks_of(params, batch), expected)


def test_scores_that_are_not_numbers_are_never_right(params, batch, ranks_of):
    broken = {**params, "head": {**params["head"], "bias": np.full(10, np.nan, np.float32)}}
    assert (np.asarray(ranks_of(broken, batch)) == 9).all()


def test_padding_may_have_any_label(params, batch, ranks_of):
    padded = TrainBatch(batch.pixels, np.full(8, -1, np.int32))
    assert ranks_of(params, padded).shape == (8,)
