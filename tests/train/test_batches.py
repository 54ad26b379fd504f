"""Does every image come once an epoch, in an order that the step alone decides?"""

import shutil

import numpy as np
import pytest
from PIL import Image

from regvit_jax.data import FolderSource
from regvit_jax.digits import DigitsSource
from regvit_jax.errors import InputError
from train.batches import batch_indices, open_splits, train_batches


def test_an_epoch_has_every_image_once_and_leaves_out_the_rest():
    steps = [batch_indices(0, 22, 4, step) for step in range(10)]
    for epoch in (0, 1):
        seen = np.concatenate([indices for e, indices in steps if e == epoch])
        assert len(seen) == len(set(seen.tolist())) == 20
    assert [epoch for epoch, _ in steps] == [0] * 5 + [1] * 5


def test_epochs_and_seeds_have_their_own_order():
    orders = [
        batch_indices(seed, 20, 20, step)[1].tolist() for seed, step in [(0, 0), (0, 1), (1, 0)]
    ]
    assert len({tuple(order) for order in orders}) == 3


def test_batches_from_the_middle_are_those_of_the_whole_run(recipe, preprocess):
    source = DigitsSource.open("train", num_images=30)
    whole = list(train_batches(source, recipe, preprocess, 0, 6))
    rest = list(train_batches(source, recipe, preprocess, 4, 6))
    assert len(whole) == 6
    for got, want in zip(rest, whole[4:], strict=True):
        np.testing.assert_array_equal(got.pixels, want.pixels)
        np.testing.assert_array_equal(got.labels, want.labels)


def test_an_epoch_draws_the_digits_anew(recipe, preprocess):
    source = DigitsSource.open("train", num_images=8)
    first, second = train_batches(source, recipe, preprocess, 0, 2)
    assert sorted(first.labels) == sorted(second.labels)
    known = {image.tobytes() for image in first.pixels}
    assert all(image.tobytes() not in known for image in second.pixels)


def test_photographs_are_cropped_by_seed_epoch_and_index(recipe, preprocess, change, class_folders):
    source = FolderSource.open(class_folders / "train")
    recipe = change(recipe, min_crop_area=0.3)
    first, second = train_batches(source, recipe, preprocess, 0, 2)
    (again,) = train_batches(source, recipe, preprocess, 1, 2)
    np.testing.assert_array_equal(second.pixels, again.pixels)
    known = {image.tobytes() for image in first.pixels}
    assert all(image.tobytes() not in known for image in second.pixels)


def test_without_random_crops_training_sees_what_evaluation_sees(recipe, preprocess, class_folders):
    source = FolderSource.open(class_folders / "train")
    (batch,) = train_batches(source, recipe, preprocess, 0, 1)
    _, indices = batch_indices(recipe.seed, 8, 8, 0)
    expected = [preprocess.pixels(source[int(i)].image) for i in indices]
    np.testing.assert_array_equal(batch.pixels, expected)


def test_a_damaged_image_is_named(recipe, preprocess, class_folders):
    (class_folders / "train" / "cat" / "2.png").write_bytes(b"\x89PNG\r\n")
    source = FolderSource.open(class_folders / "train")
    with pytest.raises(InputError, match=r"2\.png"):
        list(train_batches(source, recipe, preprocess, 0, 1))


def test_class_folders_that_differ_are_named(class_folders):
    shutil.move(class_folders / "val" / "dog", class_folders / "val" / "emu")
    with pytest.raises(
        InputError, match=r"only the first has \['dog'\], only the second \['emu'\]"
    ):
        open_splits(str(class_folders))


def test_a_folder_without_splits_is_refused(class_folders):
    with pytest.raises(InputError, match="no folders train and val"):
        open_splits(str(class_folders / "train"))


def test_images_without_class_folders_are_refused(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / split / "a.png")
    with pytest.raises(InputError, match="not in class folders"):
        open_splits(str(tmp_path))
