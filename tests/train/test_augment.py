"""Are random crops inside the image, and flips decided image by image?"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from train.augment import crop_box, generator_of, random_flip, random_resized_crop


@pytest.mark.parametrize("size", [(500, 375), (40, 300), (7, 7)])
def test_a_crop_has_the_area_and_aspect_it_may_have(size):
    width, height = size
    for index in range(200):
        left, top, right, bottom = crop_box(width, height, 0.08, generator_of(0, 0, index))
        w, h = right - left, bottom - top
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        # Sides are rounded to whole pixels.
        assert 3 / 4 * (h - 1) - 1 <= w <= 4 / 3 * (h + 1) + 1
        assert (w + 1) * (h + 1) >= 0.08 * width * height or min(size) == w or min(size) == h


def test_an_image_too_narrow_for_any_try_is_cut_at_its_centre():
    assert crop_box(30, 3000, 1.0, generator_of(0, 0, 0)) == (0, 1480, 30, 1520)


def test_the_crop_of_an_image_depends_on_seed_epoch_and_index():
    boxes = {crop_box(500, 375, 0.08, generator_of(*key)) for key in np.ndindex(2, 2, 2)}
    assert len(boxes) == 8
    assert crop_box(500, 375, 0.08, generator_of(1, 1, 1)) in boxes


def test_a_crop_is_resized_to_a_square():
    image = Image.fromarray((255 * np.random.default_rng(0).random((60, 80, 3))).astype(np.uint8))
    crop = random_resized_crop(image, 32, 0.3, generator_of(0, 0, 0))
    box = crop_box(80, 60, 0.3, generator_of(0, 0, 0))
    expected = image.crop(box).resize((32, 32), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(crop, np.asarray(expected))


def test_about_half_the_images_are_flipped_each_by_its_own_key():
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (200, 2, 4, 3), np.uint8))
    rngs = jax.random.split(jax.random.key(0), 200)
    flipped = np.asarray(random_flip(rngs, pixels))
    mirrored = np.asarray(pixels)[:, :, ::-1]
    is_flipped = (flipped == mirrored).all((1, 2, 3))
    np.testing.assert_array_equal(flipped[~is_flipped], np.asarray(pixels)[~is_flipped])
    assert 70 < is_flipped.sum() < 130  # four standard deviations
    np.testing.assert_array_equal(random_flip(rngs[50:60], pixels[50:60]), flipped[50:60])
