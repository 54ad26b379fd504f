"""Does every kind of image file become three upright channels, or a clear error?"""

import io
import struct
import warnings
import zlib

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


def deep_png(values):
    """A PNG file of 16 bits per channel, which Pillow reads and does not write."""
    height, width, channels = values.shape
    kind = {2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    file = b"\x89PNG\r\n\x1a\n"
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        file += struct.pack(">I", len(data)) + name + data
        file += struct.pack(">I", zlib.crc32(name + data))
    return file


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_colours_of_16_bits_are_read_and_those_of_12_bits_in_them_refused(channels, tmp_path):
    colour = np.stack([RAMP] * channels, axis=-1).astype(np.uint16)
    if channels != 3:
        colour[..., -1] = 255  # opaque
    path = tmp_path / "deep.png"
    path.write_bytes(deep_png(colour * 257))
    np.testing.assert_array_equal(np.asarray(read_image(path))[..., 0], RAMP)
    colour[..., : channels - (channels != 3)] *= 16
    colour[..., -1] = colour[..., -1] if channels == 3 else 65535
    path.write_bytes(deep_png(colour))
    with pytest.raises(InputError, match="colours of 16 bits that are all below 4096"):
        read_image(path)


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
        (b"", "is not an image .*: it is empty"),
        (b"<html>not found</html>", "is not an image .*: it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic", "it is HEIC or a film. Save it as JPEG"),
        (b"a letter", "is not an image that Pillow can read"),
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


def test_every_range_that_is_assumed_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("regvit_jax.images._said", set())
    for name, top in (("one", 1), ("byte", 255), ("again", 255)):
        Image.fromarray(np.full((4, 4), top, np.float32)).save(tmp_path / f"{name}.tif")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for name in ("one", "byte", "again"):
            assert np.asarray(read_image(tmp_path / f"{name}.tif")).max() == 255
    words = [str(warning.message).rsplit("/", 1)[-1] for warning in told]
    assert words == [
        "one.tif: float32 values, assumed to range from 0 to 1",
        "byte.tif: float32 values, assumed to range from 0 to 255",
    ]


def test_of_an_animation_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), (value,) * 3) for value in (10, 200)]
    for suffix in ("gif", "tif", "webp", "png"):
        path = tmp_path / f"x.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.asarray(read_image(path)).max() <= 12  # WebP is lossy
