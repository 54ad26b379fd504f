"""Does an image's augmentation depend on its own key only, and on what the recipe asks for?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax.train.augment import augment
from regvit_jax.train.recipe import DataConfig
from regvit_jax.ways import GPU, taking

WHOLE = DataConfig(flip=True, three_augment=True, colour_jitter=0.3)


@pytest.fixture(scope="module")
def pixels():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (12, 16, 24, 3), np.uint8))


@pytest.fixture(scope="module")
def rngs():
    return jax.random.split(jax.random.key(0), 12)


def changed(rngs, pixels, data):
    return np.asarray(jax.jit(functools.partial(augment, data=data))(rngs, pixels))


def test_about_half_the_images_are_flipped_each_by_its_own_key():
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (200, 2, 4, 3), np.uint8))
    rngs = jax.random.split(jax.random.key(0), 200)
    flipped = changed(rngs, pixels, DataConfig(flip=True))
    mirrored = np.asarray(pixels)[:, :, ::-1]
    is_flipped = (flipped == mirrored).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~is_flipped], np.asarray(pixels)[~is_flipped])
    assert 70 < is_flipped.sum() < 130  # four standard deviations


def test_an_image_does_not_depend_on_those_beside_it(pixels, rngs):
    whole = changed(rngs, pixels, WHOLE)
    np.testing.assert_array_equal(changed(rngs[3:6], pixels[3:6], WHOLE), whole[3:6])
    assert len({image.tobytes() for image in whole}) == 12


def test_an_accelerator_that_takes_all_images_at_once_gets_the_same(pixels, rngs):
    one_by_one = changed(rngs, pixels, WHOLE)
    with taking(GPU):
        np.testing.assert_array_equal(changed(rngs, pixels, WHOLE), one_by_one)


def test_nothing_happens_that_is_not_asked_for(pixels, rngs):
    assert augment(rngs, pixels, DataConfig()) is pixels
    flipped = changed(rngs, pixels, DataConfig(flip=True))
    np.testing.assert_array_equal(flipped.sum((1, 2)), np.asarray(pixels).sum((1, 2)))


def test_each_image_is_grey_solarised_or_blurred(pixels, rngs):
    images = changed(rngs, pixels, DataConfig(three_augment=True))
    original = np.asarray(pixels)
    is_grey = (images == images[..., :1]).all((1, 2, 3))
    is_solarised = (images == np.where(original < 128, original, 255 - original)).all((1, 2, 3))
    assert is_grey.any()
    assert is_solarised.any()
    assert (~is_grey & ~is_solarised).any()


def test_the_jitter_alone_leaves_grey_images_grey(rngs):
    grey = jnp.broadcast_to(
        jnp.arange(12, dtype=jnp.uint8)[:, None, None, None] * 20, (12, 8, 8, 3)
    )
    images = changed(rngs, grey, DataConfig(colour_jitter=0.3))
    assert (images == images[..., :1]).all()
    assert (images != np.asarray(grey)).any()
