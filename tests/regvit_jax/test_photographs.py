"""Pictures of every kind become the model's input, or are refused with a sentence."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from regvit_jax import images
from regvit_jax.errors import InputError
from regvit_jax.images import read_image, read_size
from regvit_jax.photographs import load_images
from regvit_jax.preprocess import Preprocess

SMALL = Preprocess(height=8, width=8, short_side=8)


@pytest.fixture
def picture() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((40, 30), Image.Resampling.BICUBIC)


def test_a_path_an_image_and_an_array_are_the_same_input(tmp_path, picture):
    path = tmp_path / "a.png"
    picture.save(path)
    wanted = SMALL.normalise(SMALL.pixels(picture)[None])
    for given in (path, str(path), str(path).encode(), picture, np.asarray(picture), [path]):
        np.testing.assert_array_equal(load_images(given, SMALL), wanted)
    assert load_images([path, picture], SMALL).shape == (2, 8, 8, 3)


@pytest.mark.parametrize(
    "mode", ["L", "LA", "P", "PA", "RGBA", "RGBa", "La", "CMYK", "YCbCr", "LAB"]
)
def test_every_mode_becomes_rgb(picture, mode):
    steps = {"La": "LA", "RGBa": "RGBA", "PA": "P"}
    if mode == "LAB":
        from PIL import ImageCms

        srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        given = ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB")
    else:
        given = (
            picture.convert(steps[mode]).convert(mode) if mode in steps else picture.convert(mode)
        )
    pixels = SMALL.pixels(given)
    grey = mode in ("L", "LA", "La")
    wanted = SMALL.pixels(picture.convert("L").convert("RGB") if grey else picture)
    assert np.abs(pixels.astype(int) - wanted).mean() < 8  # a palette has few colours


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), "float32"),
        (np.zeros((3, 8, 8), np.uint8), "channels first"),
        (np.zeros((8, 8, 2), np.uint8), "(8, 8, 2)"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        (np.zeros((8, 8), bool), "bool"),
    ],
)
def test_arrays_that_do_not_say_what_they_are_are_refused(array, words):
    with pytest.raises(InputError, match=words.replace("(", r"\(").replace(")", r"\)")):
        SMALL.pixels(array)


def test_only_pixels_of_8_bits_and_three_channels_are_normalised():
    with pytest.raises(InputError, match="uint8"):
        SMALL.normalise(np.zeros((8, 8, 3), np.float32))
    with pytest.raises(InputError, match="height, width, 3"):
        SMALL.normalise(np.zeros((8, 8, 4), np.uint8))


def test_the_model_refuses_what_is_no_normalised_image():
    # In a process of its own: here the tests' types would refuse them first.
    script = """
import numpy as np
from regvit_jax import DeiT3, InputError, ViTConfig
from regvit_jax.model import init_params
import jax
model = DeiT3(ViTConfig(embed_dim=8, depth=1, num_heads=2, patch_size=4, image_size=8))
params = init_params(model, jax.random.key(0))
for shape, dtype in [((2, 8, 8, 3), "uint8"), ((2, 3, 8, 8), "float32"), ((8, 8, 3), "float32"),
                     ((3, 8, 8), "float32"), ((2, 8, 8, 1), "float32"), ((2, 8, 8, 4), "float32")]:
    for method in ("__call__", "trace"):
        try:
            model.apply({"params": params}, np.zeros(shape, dtype), method=method)
        except InputError as error:
            print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    words = [
        "uint8",
        "transpose(0, 2, 3, 1)",
        "images[None]",
        "transpose(1, 2, 0)[None]",
        "1 ch",
        "4 ch",
    ]
    for line, word in zip(found.stdout.splitlines(), [w for w in words for _ in "12"], strict=True):
        assert word in line


@pytest.mark.parametrize(
    "field", [{"std": (0.0, 1.0, 1.0)}, {"mean": (float("nan"), 0.0, 0.0)}, {"height": 0},
              {"width": 10**9}, {"resize": "stretch"}, {"mean": (0.5, 0.5)}, {"short_side": "8"}],
)  # fmt: skip
def test_a_preprocessing_that_makes_no_sense_is_refused(field):
    with pytest.raises(InputError, match=next(iter(field))):
        Preprocess.from_json(field)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_the_size_in_the_head_is_that_of_the_upright_image(tmp_path, picture, orientation, suffix):
    exif = Image.Exif()
    exif[0x112] = orientation
    path = tmp_path / f"a.{suffix}"
    picture.save(path, exif=exif)
    assert read_size(path) == read_image(path).size
    assert read_size(path) == ((40, 30) if orientation < 5 else (30, 40))
    upright = read_image(path)
    again = SMALL.pixels(Image.open(path))
    np.testing.assert_array_equal(again, SMALL.pixels(upright))


@pytest.mark.parametrize(("top", "kind"), [(1.0, np.float32), (255, np.int32), (4095, np.uint16)])
def test_a_range_that_no_file_says_is_assumed_aloud(tmp_path, monkeypatch, top, kind):
    monkeypatch.setattr(images, "_said", set())
    ramp = np.linspace(0, 1, 64).reshape(8, 8)
    path = tmp_path / "ramp.tif"
    Image.fromarray((ramp * top).astype(kind)).save(path)
    with pytest.warns(images.AssumedRange, match="ramp.tif"):
        found = np.asarray(read_image(path))[..., 0].astype(float)
    assert np.abs(found - ramp * 255).max() <= 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_image(path)  # once is enough


@pytest.mark.parametrize("value", [-1.0, np.nan, 1e9])
def test_a_range_that_nothing_tells_is_refused(tmp_path, value):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, value]], np.float32)).save(path)
    with pytest.raises(InputError, match="range is unknown"):
        read_image(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("size", [(20_000, 10_000), (1, 100_000)])
def test_too_large_a_picture_says_so_before_it_is_decoded(tmp_path, size):
    path = tmp_path / "scan.png"
    Image.new("1", size).save(path)
    with pytest.raises(InputError, match="pixels") as error:
        read_image(path)
    assert "damaged" not in str(error.value)


def test_a_pipe_named_as_a_photograph_does_not_hang(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(InputError, match="no file"):
        read_image(tmp_path / "a.jpg")


def test_a_refusal_of_the_system_is_not_called_damage(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.jpg").touch()
    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(InputError, match=r"a.jpg cannot be opened: Permission denied"):
        read_image(tmp_path / "a.jpg")


def test_the_crop_of_a_long_strip_needs_no_resized_whole():
    strip = Image.fromarray(np.random.default_rng(1).integers(0, 255, (3, 9000, 3), dtype=np.uint8))
    preprocess = Preprocess(height=96, width=96, short_side=96)
    scaled = strip.resize((288_000, 96), Image.Resampling.BICUBIC)
    left = round((288_000 - 96) / 2)
    wanted = np.asarray(scaled.crop((left, 0, left + 96, 96)), int)
    assert np.abs(preprocess.pixels(strip) - wanted).max() <= 1
