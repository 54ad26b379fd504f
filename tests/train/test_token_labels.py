"""Do patches learn their own targets, whatever happens to the image, and does no trace remain?"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

import regvit_jax.cues
from regvit_jax import checkpoint
from regvit_jax.arrays import describe_arrays, read_arrays
from regvit_jax.checkpoint import flatten
from regvit_jax.cues import CuesSource
from regvit_jax.digits import DigitsSource
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, init_params
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import Sample
from regvit_jax.train.augment import augment, draw_augment
from regvit_jax.train.loop import train as run_training
from regvit_jax.train.mixing import mix_images
from regvit_jax.train.optim import READOUT, make_optimizer
from regvit_jax.train.state import StateStore
from regvit_jax.train.step import (
    TrainBatch,
    draw,
    first_state,
    init_rng,
    make_batch_loss,
    make_train_step,
)
from regvit_jax.train.token_labels import (
    check_tokens,
    seen_targets,
    token_loss,
    token_targets,
    with_readout,
)

GRID = 4


@pytest.fixture(scope="module")
def recipe(recipe, change):
    return change(recipe, token_loss=3.0, depth=1)


@pytest.fixture(scope="module")
def colours():
    """Images whose patches are red, green or blue, and these colours as targets."""
    hard = np.random.default_rng(0).integers(0, 3, (8, GRID**2))
    soft = np.eye(3, dtype=np.float32)[hard]
    pixels = soft.reshape(8, GRID, GRID, 3).repeat(8, axis=1).repeat(8, axis=2)
    labels = np.arange(8, dtype=np.int32)
    return TrainBatch((255 * pixels).astype(np.uint8), labels, soft), hard


@pytest.fixture(scope="module")
def params(recipe):
    params = init_params(DeiT3(recipe.model), init_rng(0))
    with_layer = with_readout(params, recipe, ThreeColours(), init_rng(0))
    return jax.tree.map(np.array, with_layer)


class ThreeColours(DigitsSource):
    """A source that says what its patches can be."""

    token_classes = 3

    def __init__(self):
        super().__init__("train", 32, 0, 8)


def numpy_loss(tokens, readout, targets):
    """Loss of each image, and the gradient of their sum for the kernel, in float64."""
    tokens, targets = tokens.astype(np.float64), targets.astype(np.float64)
    logits = tokens @ readout["kernel"].astype(np.float64) + readout["bias"]
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    loss = -(targets * np.log(shares)).sum(-1).mean(-1)
    slope = (shares * targets.sum(-1, keepdims=True) - targets) / targets.shape[1]
    return loss, np.einsum("bnd,bnk->dk", tokens, slope)


def test_the_loss_and_its_gradient_equal_numpy_in_float64():
    generator = np.random.default_rng(1)
    tokens = generator.normal(size=(3, 6, 5)).astype(np.float32)
    targets = generator.dirichlet(np.ones(4), (3, 6)).astype(np.float32)
    targets[:, 2] = 0
    readout = {
        "kernel": generator.normal(size=(5, 4)).astype(np.float32),
        "bias": generator.normal(size=4).astype(np.float32),
    }
    loss, slope = numpy_loss(tokens, readout, targets)
    tokens, targets = jnp.asarray(tokens), jnp.asarray(targets)
    np.testing.assert_allclose(token_loss(readout, tokens, targets), loss, rtol=0, atol=1e-6)
    grads = jax.grad(lambda layer: token_loss(layer, tokens, targets).sum())(readout)
    np.testing.assert_allclose(grads["kernel"], slope, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"flip": True},
        {"mixup_alpha": 0.8},
        {"flip": True, "cutmix_alpha": 1.0, "mix_group": 2},
    ],
    ids=["flip", "mixup", "flip and cutmix"],
)
def test_targets_follow_the_pixels(recipe, colours, change, changes):
    """A patch's mean colour after all that happened to the image is what its target says."""
    recipe, (batch, _) = change(recipe, **changes), colours
    draws = draw(jax.random.key(3), jnp.arange(8), recipe)
    images = augment(draws.rngs, jnp.asarray(batch.pixels), recipe.data) / 255
    if draws.mix is not None:
        images = mix_images(images, draws.mix)
    is_flipped = draw_augment(draws.rngs, recipe.data).is_flipped if recipe.data.flip else None
    seen = seen_targets(batch.tokens, 3, is_flipped, draws.mix, recipe)
    means = np.asarray(images).reshape(8, GRID, 8, GRID, 8, 3).mean((2, 4)).reshape(8, -1, 3)
    np.testing.assert_allclose(seen, means, rtol=0, atol=1e-6)
    assert not np.allclose(seen, batch.tokens)


def test_a_hard_target_is_one_share_and_minus_one_is_none(recipe, colours):
    batch, hard = colours
    seen = seen_targets(hard, 3, None, None, recipe)
    np.testing.assert_array_equal(seen, batch.tokens)
    none = seen_targets(np.full_like(hard, -1), 3, None, None, recipe)
    assert not np.asarray(none).any()


@pytest.mark.parametrize("pooling", ["cls", "patches"])
def test_the_batch_loss_adds_the_weighted_loss_of_the_patches(
    recipe, preprocess, colours, params, change, pooling
):
    """With and without it, against NumPy on the tokens that the trace shows."""
    recipe, (batch, _) = change(recipe, pooling=pooling), colours
    model = DeiT3(recipe.model)
    draws = draw(jax.random.key(0), jnp.arange(8), recipe)
    whole = jax.tree.map(jnp.asarray, batch)
    both = make_batch_loss(model, recipe, preprocess)(params, whole, draws)
    alone = make_batch_loss(model, change(recipe, token_loss=0.0), preprocess)(params, whole, draws)
    images = preprocess.normalise(batch.pixels)
    ours = {name: leaf for name, leaf in params.items() if name != READOUT}
    trace = model.apply({"params": ours}, images, method="trace")
    patches = np.asarray(trace.normed[:, model.layout(images.shape).patches])
    loss, _ = numpy_loss(patches, params[READOUT], batch.tokens)
    np.testing.assert_allclose(both - alone, 3.0 * loss.sum(), rtol=0, atol=2e-5)


def test_four_devices_take_the_step_of_one(recipe, preprocess, colours, params, change):
    recipe = change(recipe, flip=True, mixup_alpha=0.8, cutmix_alpha=1.0, mix_group=4)
    batch, _ = colours
    model, optimizer = DeiT3(recipe.model), optax.sgd(0.1)
    state = first_state(params, optimizer, recipe)
    step = make_train_step(model, optimizer, recipe, preprocess)
    after, _ = step(jax.tree.map(np.copy, state), batch)
    rng = jax.random.fold_in(jax.random.key(recipe.seed), jnp.zeros((), jnp.int32))
    draws = draw(rng, jnp.arange(8), recipe)
    whole = jax.tree.map(jnp.asarray, batch)
    grads = jax.jit(jax.grad(make_batch_loss(model, recipe, preprocess)))(params, whole, draws)
    assert jax.local_device_count() == 4
    assert np.abs(grads[READOUT]["kernel"]).max() > 1e-3
    for got, start, grad in zip(
        *(jax.tree.leaves(tree) for tree in (after.params, params, grads)), strict=True
    ):
        np.testing.assert_allclose(got, start - 0.1 * grad / 8, rtol=0, atol=4e-7)


def test_the_layer_learns_even_where_the_model_is_frozen(
    recipe, preprocess, colours, params, change
):
    recipe = change(recipe, trainable="registers")
    optimizer = make_optimizer(recipe.optim, lambda _: 1e-2, recipe.trainable)
    state = first_state(params, optimizer, recipe)
    step = make_train_step(DeiT3(recipe.model), optimizer, recipe, preprocess)
    after, _ = step(jax.tree.map(np.copy, state), colours[0])
    moved = {
        name.split("/")[0]
        for name, leaf in flatten(after.params).items()
        if not np.array_equal(leaf, flatten(params)[name])
    }
    assert moved == {"reg_tokens", READOUT}


@pytest.fixture
def cues(recipe, change, monkeypatch):
    """Ten steps on mosaics, in epochs of four: background loses its target on the way."""
    monkeypatch.setitem(regvit_jax.cues.SPLITS, "train", 32)
    monkeypatch.setitem(regvit_jax.cues.SPLITS, "val", 16)
    return change(
        recipe, data="cues", image_size=48, epochs=2.5, ema_decay=0.5, keep_every_epochs=1
    )


def test_a_run_continues_bit_for_bit_and_no_checkpoint_holds_the_layer(cues, tmp_path, monkeypatch):
    run_training(cues, tmp_path / "whole")
    make = StateStore.save

    def die(self, state, losses=()):
        make(self, state, losses)
        self.wait()
        if int(state.step) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "save", die)
        with pytest.raises(KeyboardInterrupt):
            run_training(cues, tmp_path / "killed")
    run_training(cues, tmp_path / "killed")
    whole, again = (_arrays(tmp_path / name / "steps/10") for name in ("whole", "killed"))
    assert whole.keys() == again.keys()
    assert any(READOUT in name for name in whole)
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array)
    for place in ("model", "ema", "best", "epochs/1"):
        ours, theirs = (
            flatten(checkpoint.load(tmp_path / name / place)[1]) for name in ("whole", "killed")
        )
        assert not any(READOUT in name for name in ours)
        for name, array in ours.items():
            np.testing.assert_array_equal(theirs[name], array)


def _arrays(path):
    return read_arrays(path, describe_arrays(path))


def test_without_a_token_loss_a_state_has_no_layer(recipe, change):
    params = {"head": np.zeros(3)}
    off = change(recipe, token_loss=0.0)
    assert with_readout(params, off, CuesSource.open("train"), init_rng(0)) is params


def test_what_has_no_targets_is_refused(recipe):
    with pytest.raises(InputError, match=r"digits-train has no targets.*--data cues"):
        check_tokens(recipe, DigitsSource.open("train"))


def test_a_crop_that_targets_do_not_follow_is_refused(recipe, change):
    with pytest.raises(InputError, match="--crop evaluation"):
        change(recipe, crop="random_resized")
    with pytest.raises(InputError, match="not be negative"):
        change(recipe, token_loss=-1.0)


@pytest.mark.parametrize(
    ("size", "targets", "message"),
    [
        ((32, 32), None, "has no targets"),
        ((32, 32), np.zeros((6, 6), int), r"6 x 6 patches, the model has 4 x 4"),
        ((40, 32), np.zeros((4, 4), int), r"40 x 32 px and would be cropped"),
    ],
)
def test_targets_that_do_not_fit_are_refused(recipe, size, targets, message):
    sample = Sample(Image.new("RGB", size), 0, np.zeros((0, 4)), token_targets=targets)
    with pytest.raises(InputError, match=f"a.png.*{message}"):
        token_targets(sample, recipe, "a.png")


def test_an_image_of_another_size_keeps_its_targets(recipe):
    """64 px become 32 as a whole, so that the grid stays."""
    targets = np.arange(16).reshape(4, 4)
    sample = Sample(Image.new("RGB", (64, 64)), 0, np.zeros((0, 4)), token_targets=targets)
    assert token_targets(sample, recipe, "a.png").tolist() == list(range(16))
    assert Preprocess.square(32).pixels(sample.image).shape == (32, 32, 3)
