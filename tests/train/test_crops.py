"""Are random crops where and as large as torchvision's, with the same pixels?"""

import numpy as np
import pytest
from PIL import Image

from regvit_jax.train.crops import (
    Crop,
    crop_box,
    cut,
    generator_of,
    random_resized_crop,
    simple_random_crop,
)


@pytest.fixture(scope="module")
def photograph(textures):
    """A photograph of 224 x 150 px."""
    pixels = textures[0, :150] * np.float32(0.229) + np.float32(0.485)
    return Image.fromarray((pixels * 255).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (40, 300), (7, 7)])
def test_a_crop_has_the_area_and_aspect_it_may_have(size):
    width, height = size
    for place in range(200):
        left, top, right, bottom = crop_box(width, height, 0.08, generator_of(0, 0, place))
        w, h = right - left, bottom - top
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        # Sides are rounded to whole pixels.
        assert 3 / 4 * (h - 1) - 1 <= w <= 4 / 3 * (h + 1) + 1
        assert (w + 1) * (h + 1) >= 0.08 * width * height or min(size) == w or min(size) == h


def test_an_image_too_narrow_for_any_try_is_cut_at_its_centre():
    assert crop_box(30, 3000, 1.0, generator_of(0, 0, 0)) == (0, 1480, 30, 1520)


def test_the_crop_of_an_image_depends_on_seed_epoch_and_place():
    boxes = {crop_box(500, 375, 0.08, generator_of(*key)) for key in np.ndindex(2, 2, 2)}
    assert len(boxes) == 8
    assert crop_box(500, 375, 0.08, generator_of(1, 1, 1)) in boxes


class TorchDraws(np.random.Generator):
    """torchvision's draws, as a NumPy generator would hand them out."""

    def __init__(self, torch):
        super().__init__(np.random.PCG64())
        self.torch = torch

    def uniform(self, low, high):
        return self.torch.empty(1).uniform_(low, high).item()

    def integers(self, end):
        return self.torch.randint(0, end, (1,)).item()


@pytest.mark.parametrize("shape", [(500, 375), (333, 500), (60, 300)])
def test_boxes_are_torchvisions_with_the_same_draws(timm, shape):
    import torch
    from torchvision.transforms import RandomResizedCrop

    image = Image.new("RGB", shape)
    for seed in range(50):
        torch.manual_seed(seed)
        top, left, height, width = RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
        torch.manual_seed(seed)
        box = crop_box(*shape, 0.08, TorchDraws(torch))
        assert box == (left, top, left + width, top + height)


def test_pixels_are_torchvisions(timm, photograph):
    from torchvision.transforms import InterpolationMode, functional

    crop = random_resized_crop(224, 150, 96, 0.08, generator_of(0, 0, 3))
    left, top, right, bottom = crop.box
    expected = functional.resized_crop(
        photograph, top, left, bottom - top, right - left, [96, 96], InterpolationMode.BICUBIC
    )
    np.testing.assert_array_equal(cut(photograph, crop, 96), np.asarray(expected))


@pytest.mark.parametrize("turned", [False, True])
def test_simple_crops_are_torchvisions_with_the_same_draws(timm, photograph, turned):
    import torch
    from torchvision.transforms import Compose, InterpolationMode, RandomCrop, Resize

    image = photograph.rotate(90, expand=True) if turned else photograph
    transform = Compose(
        [
            Resize(96, InterpolationMode.BICUBIC),
            RandomCrop(96, padding=4, padding_mode="reflect"),
        ]
    )
    for seed in range(20):
        torch.manual_seed(seed)
        expected = transform(image)
        torch.manual_seed(seed)
        crop = simple_random_crop(*image.size, 96, TorchDraws(torch))
        np.testing.assert_array_equal(cut(image, crop, 96), np.asarray(expected))


def test_an_image_smaller_than_the_crop_is_enlarged():
    image = Image.fromarray(np.arange(75, dtype=np.uint8).reshape(5, 5, 3))
    for crop in (
        random_resized_crop(5, 5, 32, 0.3, generator_of(0, 0, 0)),
        simple_random_crop(5, 5, 32, generator_of(0, 0, 0)),
    ):
        assert cut(image, crop, 32).shape == (32, 32, 3)


def test_the_scale_of_a_crop_is_that_of_the_side_reduced_least():
    assert Crop((10, 10, 110, 60), 50, 50).scale == 1.0
