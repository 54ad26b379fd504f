"""Does the contact sheet show what training sees, and say what was done?"""

import jax
import numpy as np
import pytest
from PIL import Image

from regvit_jax.errors import InputError
from regvit_jax.image_folder import FolderSource
from regvit_jax.train.augment import augment
from regvit_jax.train.batches import read_crop
from regvit_jax.train.crops import generator_of
from regvit_jax.train.mixing import draw_mixes, mix_images
from regvit_jax.train.sheet import CELL, _lines, _samples, write_sheet


@pytest.fixture
def changed(recipe, change, class_folders):
    return change(
        recipe,
        data=str(class_folders),
        crop="random_resized",
        flip=True,
        three_augment=True,
        colour_jitter=0.3,
    )


def test_samples_are_what_training_computes(changed, change, preprocess, class_folders):
    recipe = change(changed, mixup_alpha=0.8)
    source = FolderSource.open(class_folders / "train")
    cells = _samples(source, [0, 5], recipe, preprocess, 3)
    crops = [
        read_crop(source, index, recipe, preprocess, generator_of(0, 3, place))[0]
        for place, index in enumerate((0, 5))
    ]
    rng = jax.random.fold_in(jax.random.key(0), 3)
    pixels = augment(jax.random.split(rng, 2), jax.numpy.stack(crops), recipe.data)
    mix = draw_mixes(rng, jax.numpy.zeros(2, int), 32, recipe.data)
    mixed = np.asarray(mix_images(pixels.astype("float32"), mix))
    np.testing.assert_array_equal([cell.pixels for cell in cells], np.rint(mixed))
    share = f"{100 * (1 - float(mix.keep[0])):.0f} %"
    assert [cell.caption.split("\n")[-1] for cell in cells] == [
        f"mixup: {share} of the row below",
        f"mixup: {share} of the row above",
    ]
    for cell in cells:
        assert all(word in cell.caption for word in ("brightness", "contrast", "saturation", "%"))


def test_a_sheet_has_a_row_an_image_and_a_column_a_sample(changed, tmp_path):
    write_sheet(changed, tmp_path / "new" / "sheet.png", num_images=3, num_samples=2)
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        width, height = sheet.size
    assert width >= 3 * CELL
    assert 3 * CELL <= height < 5 * CELL


def test_a_name_that_is_no_pictures_is_refused(changed, tmp_path):
    with pytest.raises(InputError, match=r"sheet\.png"):
        write_sheet(changed, tmp_path / "sheet.txt", 2, 2)
    assert not list(tmp_path.glob("sheet*"))


def test_captions_are_broken_to_the_width_of_a_cell():
    from PIL import ImageFont

    font = ImageFont.load_default(13)
    lines = _lines("a few words and " * 6 + "\nnext", font)
    assert len(lines) > 2
    assert lines[-1] == "next"
    assert max(font.getlength(line) for line in lines) <= CELL
