"""Do images arrive whole, once, in order, and with the right label?"""

import time

import numpy as np
import pytest
from PIL import Image

from regvit_jax.batches import Batches, process_slice
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import FolderSource
from regvit_jax.preprocess import Preprocess
from regvit_jax.source import check_same_classes
from regvit_jax.splits import split_folders

SMALL = Preprocess(height=8, width=8, short_side=8)


def write_images(folder, values):
    """One flat grey image per value: its colour tells which image it is."""
    folder.mkdir(parents=True, exist_ok=True)
    for value in values:
        Image.new("RGB", (12, 10), (value, value, value)).save(folder / f"{value:03}.png")


def test_a_folder_of_images_is_read_in_the_order_of_its_names(tmp_path):
    write_images(tmp_path, [9, 3, 7])
    source = open_source(str(tmp_path))
    assert source.file_names == ("003.png", "007.png", "009.png")
    assert source.class_names == ()
    assert source[1].label == -1


def test_class_folders_give_labels(tmp_path):
    write_images(tmp_path / "val" / "tench", [1, 2])
    write_images(tmp_path / "val" / "church", [3])
    write_images(tmp_path / "train" / "church", [4])
    source = open_source(str(tmp_path))
    assert source.class_names == ("church", "tench")
    assert [source[i].label for i in range(3)] == [0, 1, 1]
    assert open_source(str(tmp_path), "train").file_names == ("church/004.png",)


def test_every_image_arrives_once_and_in_order(tmp_path):
    write_images(tmp_path, range(23))
    batches = Batches(open_source(str(tmp_path)), SMALL, batch_size=5, workers=3)
    arrived = list(batches)
    assert len(batches) == len(arrived) == 5
    assert all(batch.pixels.shape == (5, 8, 8, 3) for batch in arrived)
    indices = np.concatenate([batch.indices[batch.is_real] for batch in arrived])
    values = np.concatenate([batch.pixels[batch.is_real, 0, 0, 0] for batch in arrived])
    np.testing.assert_array_equal(indices, np.arange(23))
    np.testing.assert_array_equal(values, np.arange(23))
    np.testing.assert_array_equal(arrived[-1].is_real, [True, True, True, False, False])


def test_chosen_images_arrive_in_the_chosen_order(tmp_path):
    write_images(tmp_path, range(9))
    batches = Batches(open_source(str(tmp_path)), SMALL, 2, indices=np.array([7, 0, 4]))
    values = [int(value) for batch in batches for value in batch.pixels[batch.is_real, 0, 0, 0]]
    assert values == [7, 0, 4]


def test_a_damaged_image_stops_the_run_and_is_named(tmp_path):
    write_images(tmp_path, range(4))
    (tmp_path / "002.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(InputError, match=r"002\.png.*--skip-unreadable"):
        list(Batches(open_source(str(tmp_path)), SMALL, 2))


def test_damaged_images_are_skipped_and_counted_on_request(tmp_path):
    write_images(tmp_path, range(7))
    for name in ("000.png", "005.png"):
        (tmp_path / name).write_bytes(b"")
    batches = Batches(open_source(str(tmp_path)), SMALL, 2, skip_unreadable=True)
    indices = [int(i) for batch in batches for i in batch.indices[batch.is_real]]
    assert indices == [1, 2, 3, 4, 6]
    assert len(batches.skipped) == 2
    assert "005.png" in batches.skipped[1]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_images_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match=name):
        FolderSource.open(tmp_path / name)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17])
@pytest.mark.parametrize("batch_size", [1, 8])
def test_no_image_is_dropped_or_doubled_by_the_last_batch(tmp_path, count, batch_size):
    write_images(tmp_path, range(count))
    batches = list(Batches(open_source(str(tmp_path)), SMALL, batch_size, workers=5))
    indices = np.concatenate([batch.indices for batch in batches])
    np.testing.assert_array_equal(indices[indices >= 0], np.arange(count))
    assert (indices < 0).sum() == len(batches) * batch_size - count < batch_size
    padding = ~batches[-1].is_real
    assert not batches[-1].pixels[padding].any()
    assert (batches[-1].labels[padding] == -1).all()


def test_at_most_two_batches_are_read_ahead(tmp_path):
    """There are 40 images in batches of 4: the reader of the first batch has 8 more waiting."""
    write_images(tmp_path, range(40))
    source = CountingSource(open_source(str(tmp_path)))
    batches = iter(Batches(source, SMALL, 4, workers=2))
    for taken in range(1, 6):
        next(batches)
        time.sleep(0.02)
        assert source.count <= 4 * taken + 8


class CountingSource:
    """A source that counts how many images were asked for."""

    def __init__(self, source):
        self.source, self.count = source, 0
        self.name = source.name
        self.class_names, self.file_names = source.class_names, source.file_names

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.count += 1
        return self.source[index]

    def __getattr__(self, name):
        return getattr(self.source, name)


def test_images_are_found_in_nested_folders_whatever_the_case_of_their_suffix(tmp_path):
    for name in ("a/deep/er/1.PNG", "a/2.png", "b/3.Png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10)).save(tmp_path / name, "PNG")
    source = open_source(str(tmp_path))
    assert source.file_names == ("a/2.png", "a/deep/er/1.PNG", "b/3.Png")
    assert source.class_names == ("a", "b")
    assert [source[i].label for i in range(3)] == [0, 0, 1]


def test_what_is_hidden_or_no_image_is_passed_over(tmp_path):
    write_images(tmp_path / "a", [1])
    for name in (".DS_Store", "a/._001.png", "a/notes.txt", ".git/2.png", "a/.cache/3.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "a" / "folder.png").mkdir()
    assert open_source(str(tmp_path)).file_names == ("a/001.png",)


def test_an_empty_class_folder_is_no_class(tmp_path):
    write_images(tmp_path / "a", [1])
    (tmp_path / "b").mkdir()
    assert open_source(str(tmp_path)).class_names == ("a",)


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_images(tmp_path / "elsewhere", [1, 2])
    write_images(tmp_path / "data" / "a", [3])
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "nowhere").symlink_to(tmp_path / "missing")
    (tmp_path / "data" / "itself").symlink_to("itself")
    source = open_source(str(tmp_path / "data"))
    assert source.file_names == ("a/003.png", "b/001.png", "b/002.png")


def test_thousands_of_classes_keep_their_labels(tmp_path):
    names = tuple(f"class{i:04d}/0.png" for i in range(3000))
    source = FolderSource(tmp_path, names, tuple(name.split("/")[0] for name in names))
    assert [source.label(i) for i in range(3000)] == list(range(3000))


def test_a_missing_split_is_answered_with_those_that_exist(tmp_path):
    write_images(tmp_path / "train" / "a", [1])
    write_images(tmp_path / "test" / "a", [2])
    assert open_source(str(tmp_path), "val").file_names == ("a/002.png",)
    with pytest.raises(InputError, match=r"no split 'dev'\. It has test, train"):
        open_source(str(tmp_path), "dev")


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (("train", "val"), ("train", "val")),
        (("train", "validation", "devkit"), ("train", "validation")),
        (("boat", "train"), ()),
        ((), ()),
    ],
)
def test_folders_are_splits_or_classes(tmp_path, folders, splits):
    for name in (*folders, ".hidden"):
        (tmp_path / name).mkdir()
    assert split_folders(tmp_path) == splits


def test_classes_that_differ_are_named(tmp_path):
    write_images(tmp_path / "train" / "cat", [1])
    write_images(tmp_path / "val" / "dog", [1])
    sources = [open_source(str(tmp_path), split) for split in ("train", "val")]
    with pytest.raises(InputError, match=r"only the first has \['cat'\], only.*\['dog'\]"):
        check_same_classes(*sources)
    check_same_classes(sources[0], sources[0])


@pytest.mark.parametrize("process_count", [1, 2, 4])
def test_processes_share_a_batch_without_gap_or_overlap(process_count):
    batch = np.random.default_rng(0).permutation(100)[:16]
    shares = [process_slice(batch, i, process_count) for i in range(process_count)]
    assert {len(share) for share in shares} == {16 // process_count}
    np.testing.assert_array_equal(np.concatenate(shares), batch)


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(InputError, match="batch of 10 images .* 4 processes"):
        process_slice(np.arange(10), 0, 4)


def test_real_photographs_have_three_channels(photographs):
    """Imagenette has greyscale files; all 3,925 are listed, in 10 classes."""
    source = FolderSource.open(photographs)
    assert (len(source), len(source.class_names)) == (3925, 10)
    batches = Batches(source, Preprocess(), 32, indices=np.arange(0, 3925, 50))
    count = sum(int(batch.is_real.sum()) for batch in batches)
    assert count == 79


def test_boxes_move_with_the_pixels():
    """A white rectangle on black is found, after resizing, where its box went."""
    pixels = np.zeros((375, 500, 3), np.uint8)
    pixels[100:220, 130:310] = 255
    box = np.array([[130.0, 100.0, 310.0, 220.0]])
    for preprocess in (Preprocess(), Preprocess(resize="squash"), Preprocess(short_side=256)):
        white = preprocess.pixels(Image.fromarray(pixels))[..., 0] > 127
        rows, cols = np.flatnonzero(white.any(1)), np.flatnonzero(white.any(0))
        found = [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
        moved = preprocess.boxes(box, width=500, height=375)[0]
        np.testing.assert_allclose(moved, found, rtol=0, atol=0.75)


def test_a_box_outside_the_crop_has_no_area():
    moved = Preprocess().boxes(np.array([[0.0, 10.0, 30.0, 60.0]]), width=500, height=375)[0]
    assert moved[0] == moved[2] == 0


def test_a_crop_larger_than_the_image_is_refused():
    with pytest.raises(InputError, match="short_side 200 px is smaller than the crop of 224"):
        Preprocess(short_side=200)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (r"C:\Users\me\photos", "There is no folder"),
        (r"..\photos", "There is no folder"),
        ("https://example.org/photos.zip", "is an address"),
        ("s3://bucket/photos", "is an address"),
    ],
)
def test_what_can_be_no_data_sets_name_is_not_taken_for_one(data, message):
    with pytest.raises(InputError, match=message) as refused:
        open_source(data, "val")
    assert "tfds build" not in str(refused.value)
