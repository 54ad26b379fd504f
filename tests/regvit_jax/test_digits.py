"""Are the embedded scenes reproducible, honestly split, and are their boxes exact?"""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

import regvit_jax.digits
from regvit_jax.data import open_source
from regvit_jax.digits import PHOTOGRAPHS, DigitsSource, digits_of, textures_of
from regvit_jax.errors import InputError


@pytest.fixture(scope="module")
def train():
    return DigitsSource.open("train")


def test_a_scene_depends_on_seed_split_epoch_and_index_only(train):
    wanted = train.draw(5)
    train.at_epoch(3).draw(17)
    np.testing.assert_array_equal(DigitsSource.open("train").draw(5).pixels, wanted.pixels)
    others = [
        DigitsSource.open("train", seed=1).draw(5),
        DigitsSource.open("val").draw(5),
        train.at_epoch(1).draw(5),
        train.draw(6),
    ]
    assert not any(np.array_equal(scene.pixels, wanted.pixels) for scene in others)


def test_another_process_draws_the_same_scene(train):
    program = (
        "import sys; from regvit_jax.digits import DigitsSource; "
        "sys.stdout.buffer.write(DigitsSource.open('train').draw(5).pixels.tobytes())"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert found == train.draw(5).pixels.tobytes()


def test_another_epoch_keeps_the_label_and_draws_the_scene_anew(train):
    first, second = train.draw(5), train.at_epoch(1).draw(5)
    assert first.label == second.label
    assert not np.array_equal(first.pixels, second.pixels)


def test_the_splits_cut_the_digits_in_two():
    images = load_digits().images
    train, val = digits_of("train")[0], digits_of("val")[0]
    assert len(train) + len(val) == len(images) == 1797
    assert len(val) == 359
    together = sorted(digit.tobytes() for digit in np.concatenate([train, val]))
    assert together == sorted(
        digit.tobytes() for digit in (images * (255 / 16)).round().astype("u1")
    )
    # Two people may have drawn the same 64 pixels; that would be no leak of the cut.
    assert not {digit.tobytes() for digit in train} & {digit.tobytes() for digit in val}


def test_the_splits_share_no_pixel_of_a_photograph():
    """Photographs that are black where training may look, and white where validation may."""
    from PIL import Image

    for width, height in [(400, 300), (300, 400), (332, 332)]:
        ramp = np.zeros((height, width, 3), np.uint8)
        half = max(width, height) * 3 // 4
        if height > width:
            ramp[half:] = 255
        else:
            ramp[:, half:] = 255
        image = Image.fromarray(ramp)
        # Scaling mixes neighbours: one pixel over the cut would leave a value between 0 and 255.
        assert (regvit_jax.digits._region(image, "train", 64) == 0).all()
        assert (regvit_jax.digits._region(image, "val", 64) == 255).all()


def test_every_photograph_has_room_in_both_splits():
    for split in ("train", "val"):
        regions = textures_of(split, 64)
        assert len(regions) == len(PHOTOGRAPHS)
        assert min(min(region.shape[:2]) for region in regions) > 64


def test_the_photographs_come_with_scikit_image():
    """Listed in the installed files of the wheel: nothing is ever downloaded."""
    from importlib.metadata import files

    shipped = {path.name for path in files("scikit-image") if "data" in path.parts}
    assert set(PHOTOGRAPHS) <= shipped


@pytest.mark.parametrize("size", [32, 64, 96])
def test_the_box_is_exactly_around_the_ink(monkeypatch, size):
    """Without texture and shadow, white ink on black shows the digit itself."""
    monkeypatch.setattr(regvit_jax.digits, "_TEXTURE_LEVEL", (0.0, 0.0))
    monkeypatch.setattr(regvit_jax.digits, "_TEXTURE_CONTRAST", (0.0, 0.0))
    monkeypatch.setattr(regvit_jax.digits, "_SATURATION", (0.0, 0.0))
    source = DigitsSource.open("train", size=size)
    for index in range(30):
        scene = source.draw(index)
        is_ink = scene.pixels[..., 0] >= 128
        rows, cols = np.flatnonzero(is_ink.any(1)), np.flatnonzero(is_ink.any(0))
        expected = [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
        assert scene.box.tolist() == expected
        x0, y0, x1, y1 = expected
        assert 0 <= x0 < x1 <= size
        assert 0 <= y0 < y1 <= size


def test_a_digit_covers_part_of_the_image_and_lies_anywhere(train):
    boxes = np.array([train.draw(index).box for index in range(300)])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 64**2
    assert 0.08 < np.median(area) < 0.35
    assert area.max() < 0.6
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    assert (centres.std(axis=0) > 5).all()


def test_labels_are_balanced(train):
    labels = [int(label) for label in digits_of("train")[1]]
    counts = np.bincount(labels, minlength=10)
    assert counts.min() > 0.08 * len(labels)  # 127 to 161 of 1,438


def test_a_digit_can_be_told_from_its_surroundings(train):
    """Ink is brighter than the texture inside its box, in every scene."""
    for index in range(100):
        pixels, _, (x0, y0, x1, y1), _ = train.draw(index)
        outside = pixels.astype(float).mean(-1)
        inside = outside[y0:y1, x0:x1]
        assert np.percentile(inside, 90) > np.median(outside) + 60


def test_it_is_a_source_like_any_other():
    source = open_source("digits", "val")
    sample = source[3]
    assert source.name == "digits-val"
    assert source.class_names == tuple("0123456789")
    assert len(source.file_names) == len(source) == 2000
    assert sample.image.size == (64, 64)
    assert sample.image.mode == "RGB"
    assert sample.boxes.shape == (1, 4)
    np.testing.assert_array_equal(np.asarray(sample.image), source.draw(3).pixels)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="not 'test'"):
        DigitsSource.open("test")


def test_an_index_beyond_the_end_is_refused(train):
    with pytest.raises(IndexError, match="20000"):
        train[20_000]
