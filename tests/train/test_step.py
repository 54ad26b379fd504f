"""Do four devices do what one would, and what a hand-written step would?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3
from train.state import TrainState
from train.step import (
    TrainBatch,
    check_devices,
    first_state,
    image_keys,
    make_batch_loss,
    make_rank_step,
    make_train_step,
    mean_gradient,
)

# One float32 rounding of the gradient's sum over 8 images, times the rate; measured 3e-8.
PMAP_ATOL = 2e-7
RATE = 0.1


@pytest.fixture(scope="module")
def model(recipe):
    return DeiT3(recipe.model)


@pytest.fixture(scope="module")
def params(model):
    return jax.tree.map(np.array, first_state(model, optax.sgd(RATE), seed=0).params)


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


def test_drop_path_and_flips_do_not_depend_on_devices(params, recipe, preprocess, batch, change):
    """Four devices of two images against one gradient of all eight, with the images' own keys."""
    recipe = change(recipe, drop_path_rate=0.4, flip=True)
    model = DeiT3(recipe.model)
    after, _ = one_step(model, params, recipe, preprocess, batch)
    rngs = image_keys(jax.random.key(recipe.seed), jnp.zeros((), jnp.int32), jnp.arange(8))
    whole = jax.tree.map(jnp.asarray, batch)
    grads = jax.jit(jax.grad(make_batch_loss(model, recipe, preprocess)))(params, whole, rngs)
    for got, start, grad in zip(
        *(jax.tree.leaves(tree) for tree in (after.params, params, grads)), strict=True
    ):
        np.testing.assert_allclose(got, start - RATE * grad / 8, rtol=0, atol=PMAP_ATOL)


def test_chunks_add_up_to_the_gradient_of_the_whole_batch(batch, monkeypatch):
    """On a loss with a closed form: the mean over images of (weight . pixels - label)^2."""
    params = {"patch_embed": {"kernel": jnp.full((8, 8, 3, 1), 0.01)}, "bias": jnp.ones(3)}
    rngs = image_keys(jax.random.key(0), jnp.zeros((), jnp.int32), jnp.arange(8))
    means = np.asarray(batch.pixels, np.float64).mean((1, 2)) / 255
    residuals = means.sum(1) - batch.labels

    def batch_loss(params, batch, rngs):
        means = jnp.asarray(batch.pixels, jnp.float32).mean((1, 2)) / 255
        return ((means @ params["bias"] - batch.labels) ** 2).sum()

    monkeypatch.setattr("regvit_jax.chunks.CPU_TOKENS", 48)  # three images, of which two divide
    loss, grads = mean_gradient(batch_loss, params, jax.tree.map(jnp.asarray, batch), rngs)
    np.testing.assert_allclose(loss, (residuals**2).mean(), rtol=0, atol=1e-5)
    expected = (2 * residuals[:, None] * means).mean(0)
    np.testing.assert_allclose(grads["bias"], expected, rtol=0, atol=1e-5)


def test_images_and_steps_have_keys_of_their_own():
    rng = jax.random.key(0)
    steps = [image_keys(rng, jnp.asarray(step), jnp.arange(4)) for step in (0, 1)]
    keys = np.concatenate([jax.random.key_data(rngs) for rngs in steps])
    assert len({tuple(key) for key in keys.tolist()}) == 8


def test_a_batch_that_devices_cannot_share_is_refused():
    with pytest.raises(InputError, match=r"30 images .* 4 devices.*example 32"):
        check_devices(30)


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
