"""Does every image come once an epoch, in an order that the step alone decides?"""

import dataclasses
import shutil
import time

import numpy as np
import pytest
from PIL import Image

from regvit_jax.cues import CuesSource
from regvit_jax.digits import DigitsSource
from regvit_jax.errors import InputError
from regvit_jax.image_folder import FolderSource
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.batches import TrainBatches, open_splits, pair_order, plan_batch
from regvit_jax.train.presets import preset
from regvit_jax.train.recipe import DataConfig


def test_an_epoch_has_every_image_once_and_leaves_out_the_rest():
    plans = [plan_batch(0, DataConfig(batch_size=4), 22, step) for step in range(10)]
    for epoch in (0, 1):
        seen = np.concatenate([plan.indices for plan in plans if plan.epoch == epoch])
        assert len(seen) == len(set(seen.tolist())) == 20
    assert [plan.epoch for plan in plans] == [0] * 5 + [1] * 5


def test_epochs_and_seeds_have_their_own_order():
    data = DataConfig(batch_size=20)
    orders = [plan_batch(seed, data, 20, step).indices for seed, step in [(0, 0), (0, 1), (1, 0)]]
    assert len({tuple(order.tolist()) for order in orders}) == 3


def test_a_repeated_image_comes_so_often_in_a_row_each_time_at_a_place_of_its_own():
    """22 images, 3 times, in batches of 4: the first 20 entries of the published order."""
    data = DataConfig(batch_size=4, repeats=3)
    plans = [plan_batch(0, data, 22, step) for step in range(5)]
    indices = np.concatenate([plan.indices for plan in plans])
    order = np.concatenate([plan_batch(0, DataConfig(batch_size=22), 22, 0).indices])
    np.testing.assert_array_equal(indices, np.repeat(order, 3)[:20])
    np.testing.assert_array_equal(np.concatenate([plan.places for plan in plans]), np.arange(20))
    assert plan_batch(0, data, 22, 5).epoch == 1


def test_an_epoch_of_imagenet_has_the_published_number_of_images_and_steps():
    data = DataConfig(batch_size=1024, repeats=3)
    last = plan_batch(0, data, 1_281_167, 1250)
    assert (last.epoch, plan_batch(0, data, 1_281_167, 1251).epoch) == (0, 1)
    assert last.places[-1] + 1 == 1_281_024
    assert -(-1_281_024 // 3) == 427_008


def test_partners_of_a_process_of_the_published_runs_lie_side_by_side():
    """As in DeiT: process r of 3 takes every third entry and mixes its batch with its reverse."""
    order = pair_order(12, 4).reshape(3, 2, 2)
    for process, pairs in enumerate(order):
        own = np.arange(12)[process::3]
        expected = {frozenset(pair) for pair in zip(own.tolist(), own[::-1].tolist(), strict=True)}
        assert {frozenset(pair) for pair in pairs.tolist()} == expected


def test_mixing_changes_the_order_within_a_batch_only():
    plain, mixed = (
        plan_batch(0, DataConfig(batch_size=8, mixup_alpha=alpha, repeats=3), 40, 2)
        for alpha in (0.0, 0.8)
    )
    assert sorted(plain.places) == sorted(mixed.places)
    np.testing.assert_array_equal(plain.indices[pair_order(8, 8)], mixed.indices)


def test_batches_from_the_middle_are_those_of_the_whole_run(recipe, preprocess):
    source = DigitsSource.open("train", num_images=30)
    whole = list(TrainBatches(source, recipe, preprocess, 0, 6))
    rest = list(TrainBatches(source, recipe, preprocess, 4, 6))
    assert len(whole) == 6
    for got, want in zip(rest, whole[4:], strict=True):
        np.testing.assert_array_equal(got.pixels, want.pixels)
        np.testing.assert_array_equal(got.labels, want.labels)


def test_an_epoch_draws_the_digits_anew(recipe, preprocess):
    source = DigitsSource.open("train", num_images=8)
    first, second = TrainBatches(source, recipe, preprocess, 0, 2)
    assert sorted(first.labels) == sorted(second.labels)
    known = {image.tobytes() for image in first.pixels}
    assert all(image.tobytes() not in known for image in second.pixels)


def test_photographs_are_cropped_by_seed_epoch_and_index(recipe, preprocess, change, class_folders):
    source = FolderSource.open(class_folders / "train")
    recipe = change(recipe, crop="random_resized")
    first, second = TrainBatches(source, recipe, preprocess, 0, 2)
    (again,) = TrainBatches(source, recipe, preprocess, 1, 2)
    np.testing.assert_array_equal(second.pixels, again.pixels)
    known = {image.tobytes() for image in first.pixels}
    assert all(image.tobytes() not in known for image in second.pixels)


def test_without_random_crops_training_sees_what_evaluation_sees(recipe, preprocess, class_folders):
    source = FolderSource.open(class_folders / "train")
    (batch,) = TrainBatches(source, recipe, preprocess, 0, 1)
    plan = plan_batch(recipe.seed, recipe.data, 8, 0)
    expected = [preprocess.pixels(source[int(i)].image) for i in plan.indices]
    np.testing.assert_array_equal(batch.pixels, expected)


def test_a_damaged_image_is_named(recipe, preprocess, class_folders):
    (class_folders / "train" / "cat" / "2.png").write_bytes(b"\x89PNG\r\n")
    source = FolderSource.open(class_folders / "train")
    with pytest.raises(InputError, match=r"2\.png"):
        list(TrainBatches(source, recipe, preprocess, 0, 1))


def test_a_damaged_image_is_replaced_by_the_next_one_that_can_be_read(
    recipe, preprocess, change, class_folders
):
    for name in ("2", "3"):
        (class_folders / "train" / "cat" / f"{name}.png").write_bytes(b"\x89PNG\r\n")
    source = FolderSource.open(class_folders / "train")
    recipe = change(recipe, crop="random_resized", skip_unreadable=True)
    batches = TrainBatches(source, recipe, preprocess, 0, 3)
    (batch, *_) = read = list(batches)
    again = list(TrainBatches(source, recipe, preprocess, 0, 3, workers=1))
    for one, other in zip(read, again, strict=True):
        np.testing.assert_array_equal(one.pixels, other.pixels)
    plan = plan_batch(recipe.seed, recipe.data, 8, 0)
    for row, index in enumerate(plan.indices):
        place = np.argmax(plan.indices == (4 if index in (2, 3) else index))
        assert batch.labels[row] == batch.labels[place]
    assert len(batches.unreadable) == 2
    assert all("cat" in message for message in batches.unreadable)


def test_a_folder_of_nothing_but_damaged_images_is_refused(
    recipe, preprocess, change, class_folders
):
    for path in (class_folders / "train").rglob("*.png"):
        path.write_bytes(b"\x89PNG\r\n")
    source = FolderSource.open(class_folders / "train")
    with pytest.raises(InputError, match="None of the 8 images"):
        list(TrainBatches(source, change(recipe, skip_unreadable=True), preprocess, 0, 1))


def test_copies_of_a_repeated_image_are_cropped_differently(
    recipe, preprocess, change, class_folders
):
    source = FolderSource.open(class_folders / "train")
    recipe = change(recipe, crop="random_resized", repeats=4)
    (batch,) = TrainBatches(source, recipe, preprocess, 0, 1)
    assert len({image.tobytes() for image in batch.pixels}) == 8
    assert len(set(plan_batch(0, recipe.data, 8, 0).indices.tolist())) == 2


def test_hosts_read_their_parts_of_one_batch(recipe, preprocess, change, class_folders):
    source = FolderSource.open(class_folders / "train")
    recipe = change(recipe, crop="simple", mixup_alpha=0.8)
    (whole,) = TrainBatches(source, recipe, preprocess, 0, 1)
    parts = [next(TrainBatches(source, recipe, preprocess, 0, 1, i, 2)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([part.pixels for part in parts]), whole.pixels)
    np.testing.assert_array_equal(np.concatenate([part.labels for part in parts]), whole.labels)


def test_the_time_spent_waiting_for_images_is_counted(recipe, preprocess):
    batches = TrainBatches(SlowSource.open("train", num_images=16), recipe, preprocess, 0, 1)
    next(batches)
    batches.close()
    assert 0.05 < batches.waited_seconds < 5.0


class SlowSource(DigitsSource):
    def __getitem__(self, index):
        time.sleep(0.05)
        return super().__getitem__(index)


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


def test_a_source_is_drawn_anew_once_an_epoch(monkeypatch):
    """It makes the names of all its images when asked for one, which takes as long as a step."""
    asked, at_epoch = [], CuesSource.at_epoch
    monkeypatch.setattr(
        CuesSource, "at_epoch", lambda self, epoch: asked.append(epoch) or at_epoch(self, epoch)
    )
    recipe = preset("organism")
    recipe = dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, batch_size=4))
    source = CuesSource.open("train", num_images=8)
    batches = TrainBatches(source, recipe, Preprocess.square(48), 0, 6)
    pixels = [batch.pixels for batch in batches]
    batches.close()
    assert asked == [0, 1, 2]
    places = plan_batch(recipe.seed, recipe.data, 8, 4)
    drawn = [at_epoch(source, 2).draw(int(index)).pixels for index in places.indices]
    np.testing.assert_array_equal(pixels[4], np.stack(drawn))
