"""Does a packed folder hold the same images, labels and boxes, for us and for TFDS itself?"""

import hashlib
import sys

import numpy as np
import pytest
from PIL import Image

import regvit_jax.train.cli
from regvit_jax.batches import Batches
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.pack import PackOptions, pack

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")
pytest.importorskip("array_record", reason="the extra tfds is not installed")

ANNOTATION = """<annotation><object><name>dog</name><truncated>1</truncated>
<difficult>0</difficult><bndbox><xmin>3</xmin><ymin>2</ymin><xmax>31</xmax><ymax>20</ymax></bndbox>
</object><object><name>cat</name><truncated>0</truncated><difficult>1</difficult><bndbox>
<xmin>1</xmin><ymin>1</ymin><xmax>48</xmax><ymax>40</ymax></bndbox></object></annotation>"""


def write_image(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(value).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two splits of three classes; JPEG, PNG and a format that is stored as PNG."""
    root = tmp_path / "Photographs 2"
    for i in range(18):
        split, suffix = ("train", "val")[i % 2], ("jpg", "PNG", "bmp")[i // 2 % 3]
        write_image(root / split / f"class{i % 3}" / f"{i:02}.{suffix}", i)
    return root


@pytest.fixture
def packed(folders, tmp_path):
    out = tmp_path / "data" / "packed"
    pack(PackOptions(folders, out, shards=2))
    return out


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_same_images_come_back_with_their_labels_and_names(folders, packed, split):
    folder, found = open_source(str(folders), split), open_source(str(packed), split)
    assert found.class_names == folder.class_names == ("class0", "class1", "class2")
    assert sorted(found.file_names) == sorted(folder.file_names)
    place = {name: index for index, name in enumerate(folder.file_names)}
    for i, name in enumerate(found.file_names):
        before, after = folder[place[name]], found[i]
        np.testing.assert_array_equal(after.image, before.image)
        assert after.label == before.label
        if not name.endswith("bmp"):
            assert found.encoded(i).data == folder.encoded(place[name]).data


def test_the_library_itself_reads_the_same(folders, packed):
    builder = tfds.builder_from_directory(packed)
    assert builder.info.full_name == "photographs_2/1.0.0"
    assert builder.info.splits["train"].shard_lengths == [5, 4]
    assert builder.info.features["label"].names == ["class0", "class1", "class2"]
    ours = open_source(str(packed), "val")
    for i, record in enumerate(builder.as_data_source("val")):
        np.testing.assert_array_equal(record["image"], ours[i].image)
        assert record["label"] == ours[i].label
        assert record["file_name"].decode() == ours.file_names[i]


def test_the_order_mixes_the_classes_and_follows_from_the_seed(folders, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pack(PackOptions(folders, tmp_path / name, seed=seed))
    names = [open_source(str(tmp_path / name), "train").file_names[:] for name in "abc"]
    assert names[0] == names[1] != names[2]
    assert list(names[0]) != sorted(names[0])
    files = [next((tmp_path / name).glob("*-train*")).read_bytes() for name in "ab"]
    assert digest(files[0]) == digest(files[1])


def test_a_folder_without_splits_stands_for_each(folders, tmp_path):
    packed = pack(PackOptions(folders / "val", tmp_path / "out", name="nine"))
    assert packed == ("nine", {"whole": 9}, [])
    assert len(open_source(str(tmp_path / "out"), "train")) == 9
    assert len(open_source(str(tmp_path / "out"), "train+val")) == 9
    assert len(open_source(str(tmp_path / "out"), "val[:3]")) == 3


def test_boxes_and_flags_of_a_voc_root_come_back(tmp_path):
    root = tmp_path / "VOC2012"
    for name in ("000001", "000002"):
        write_image(root / "JPEGImages" / f"{name}.jpg", int(name))
    for folder in ("Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    (root / "ImageSets/Main/trainval.txt").write_text("000001\n000002\n")
    (root / "Annotations/000001.xml").write_text(ANNOTATION)
    (root / "Annotations/000002.xml").write_text("<annotation></annotation>")
    pack(PackOptions(root, tmp_path / "out"))
    source = open_source(str(tmp_path / "out"))
    with_objects = source.file_names[:].index("000001.jpg")
    sample = source[with_objects]
    np.testing.assert_array_equal(sample.boxes, [[2, 1, 31, 20], [0, 0, 48, 40]])
    np.testing.assert_array_equal(sample.is_truncated, [True, False])
    np.testing.assert_array_equal(sample.is_difficult, [False, True])
    assert source[1 - with_objects].boxes.shape == (0, 4)
    assert source.class_names == ()


def test_the_lists_of_a_voc_root_become_splits(tmp_path):
    root = tmp_path / "VOC2007"
    (root / "ImageSets/Main").mkdir(parents=True)
    lists = {"train": ["1", "2"], "val": ["3"], "trainval": ["1", "2", "3"], "dog_train": ["1"]}
    for name, stems in lists.items():
        (root / "ImageSets/Main" / f"{name}.txt").write_text("\n".join(stems))
    for stem in lists["trainval"]:
        write_image(root / "JPEGImages" / f"{stem}.jpg", int(stem))
    packed = pack(PackOptions(root, tmp_path / "out"))
    assert packed.num_images == {"train": 2, "val": 1}
    assert len(open_source(str(tmp_path / "out"), "train+val")) == 3


def test_an_unreadable_image_is_named_and_nothing_is_left_behind(folders, tmp_path):
    (folders / "val" / "class1" / "01.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"class1/01\.jpg.*--skip-unreadable"):
        pack(PackOptions(folders, tmp_path / "data" / "out"))
    assert list((tmp_path / "data").iterdir()) == []


def test_unreadable_images_are_skipped_and_named_on_request(folders, tmp_path):
    (folders / "val" / "class1" / "01.jpg").write_bytes(b"no picture")
    packed = pack(PackOptions(folders, tmp_path / "out", skip_unreadable=True, shards=9))
    assert packed.num_images == {"train": 9, "val": 8}
    assert "01.jpg" in packed.skipped[0]
    assert len(open_source(str(tmp_path / "out"), "val")) == 8


def test_a_split_without_a_readable_image_is_refused(folders, tmp_path):
    for path in (folders / "val").rglob("*.*"):
        path.write_bytes(b"")
    with pytest.raises(InputError, match="None of the 9 images"):
        pack(PackOptions(folders, tmp_path / "out", skip_unreadable=True))


def test_classes_that_differ_are_named(folders, tmp_path):
    (folders / "val" / "class2").rename(folders / "val" / "class3")
    with pytest.raises(InputError, match=r"only the first has \['class2'\], only the.*class3"):
        pack(PackOptions(folders, tmp_path / "out"))


def test_nothing_is_overwritten(folders, packed):
    with pytest.raises(InputError, match="exists already"):
        pack(PackOptions(folders, packed))


@pytest.mark.parametrize("wrong", [{"name": "Ab"}, {"name": "a-b"}, {"shards": 0}])
def test_options_that_make_no_sense_are_refused(folders, tmp_path, wrong):
    with pytest.raises(InputError, match="got"):
        PackOptions(folders, tmp_path / "out", **wrong)


def test_a_prepared_data_set_is_not_packed_again(packed, tmp_path):
    with pytest.raises(InputError, match="packed already"):
        pack(PackOptions(packed, tmp_path / "again"))


@pytest.fixture
def call(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["regvit-train", *map(str, arguments)])
        regvit_jax.train.cli.main()

    return run


def test_the_command_packs_what_is_then_found_by_its_name(
    call, folders, tmp_path, monkeypatch, capsys
):
    """A model sees the same pixels as of the folder, in another order."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    call("pack", folders, tmp_path / "photos" / "1.0.0", "--name", "photos")
    assert "1.0.0 holds photos: 9 images in train, 9 images in val." in capsys.readouterr().out
    assert open_source("photos").name == "photos val"
    seen = []
    for data in (str(folders), "photos"):
        (batch,) = Batches(open_source(data), Preprocess.square(32), batch_size=9)
        rows = zip(batch.pixels, batch.labels.tolist(), strict=True)
        seen.append(sorted((digest(pixels.tobytes()), label) for pixels, label in rows))
    assert seen[0] == seen[1]


def test_an_unknown_data_set_ends_the_command_at_once(call, tmp_path, monkeypatch, capsys):
    """Exit status 2 and one message, before anything is compiled or written."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as end:
        call("run", "--data", "imagnette", "--out", tmp_path / "run")
    assert end.value.code == 2
    assert "Did you mean imagenette" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
