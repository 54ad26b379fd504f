"""Does every kind of image file become three upright channels, or a clear error?"""

import io

import numpy as np
import pytest
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.images import read_image

RAMP = np.linspace(0, 255, 40 * 60).reshape(40, 60).astype(np.uint8)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=-1)


def png(image):
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def test_colour_comes_back_as_it_was():
    np.testing.assert_array_equal(read_image(png(Image.fromarray(COLOUR))), COLOUR)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_other_modes_are_converted_to_three_channels(mode):
    image = read_image(png(Image.fromarray(RAMP).convert(mode)))
    assert (image.mode, image.size) == ("RGB", (60, 40))
    if mode != "1":
        np.testing.assert_allclose(np.asarray(image)[..., 1], RAMP, rtol=0, atol=1)


def test_cmyk_is_converted(tmp_path):
    path = tmp_path / "ink.jpg"
    Image.fromarray(COLOUR).convert("CMYK").save(path, quality=95)
    difference = np.asarray(read_image(path), int) - COLOUR
    assert np.abs(difference).mean() < 4  # JPEG at quality 95


def test_16_bits_are_scaled_and_not_clipped():
    deep = Image.fromarray(RAMP.astype(np.uint16) * 257)
    np.testing.assert_array_equal(np.asarray(read_image(png(deep)))[..., 0], RAMP)


def test_a_photograph_is_turned_upright(tmp_path):
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise by 90 degrees to view
    Image.fromarray(COLOUR).save(path, exif=exif, quality=95)
    image = read_image(path)
    assert image.size == (40, 60)
    expected = np.rot90(COLOUR, k=-1)
    assert np.abs(np.asarray(image, int) - expected).mean() < 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not an image"),
        (b"<html>not found</html>", "is not an image"),
        (png(Image.fromarray(COLOUR))[:200], "damaged or cut short"),
    ],
)
def test_a_file_that_is_no_whole_image_is_named(tmp_path, content, message):
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"broken.png.*{message}"):
        read_image(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no image at .*gone\.png"):
        read_image(tmp_path / "gone.png")


def test_a_truncated_photograph_is_named(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(COLOUR).save(path)
    path.write_bytes(path.read_bytes()[:-400])
    with pytest.raises(InputError, match=r"cut\.jpg is damaged or cut short"):
        read_image(path)
