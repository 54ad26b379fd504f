"""Are images padded as torch pads them: with zeros, right and below, after normalisation?"""

import numpy as np
import pytest
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess

torch = pytest.importorskip("torch", reason="the extra torch is not installed")


@pytest.mark.parametrize(("height", "width"), [(30, 41), (32, 48), (1, 17)])
def test_padding_equals_torch(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    preprocess = Preprocess().padding(height, width, 16)
    rows, cols = preprocess.height, preprocess.width
    assert (rows % 16, cols % 16) == (0, 0)
    assert 0 <= rows - height < 16 > cols - width >= 0
    mean, std = (torch.tensor(values) for values in (preprocess.mean, preprocess.std))
    normalised = ((torch.tensor(pixels) / 255 - mean) / std).permute(2, 0, 1)
    expected = torch.nn.functional.pad(normalised, (0, cols - width, 0, rows - height))
    found = preprocess.normalise(preprocess.pixels(Image.fromarray(pixels))[None])
    # Measured 2.4e-7.
    np.testing.assert_allclose(found[0], expected.permute(1, 2, 0), rtol=0, atol=1e-6)
    assert (np.asarray(found[0, height:]) == 0).all()


def test_boxes_of_padded_images_stay_where_they_are():
    boxes = np.array([[-1.0, 2, 50, 20]])
    moved = Preprocess().padding(30, 41, 16).boxes(boxes, 41, 30)
    assert moved.tolist() == [[0, 2, 41, 20]]


def test_an_image_that_is_too_large_is_refused():
    with pytest.raises(InputError, match="41 x 33 px cannot be padded to 48 x 32"):
        Preprocess().padding(32, 41, 16).pixels(Image.new("RGB", (41, 33)))
