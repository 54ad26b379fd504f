"""Are prepared data sets found and read as TensorFlow Datasets means them, without TensorFlow?"""

import collections
import dataclasses
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from regvit_jax.batches import Batches
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import why_no_classes
from regvit_jax.preprocess import Preprocess
from regvit_jax.records import RecordSource
from regvit_jax.source import EncodedSource

tfds = pytest.importorskip("tensorflow_datasets", reason="the extra tfds is not installed")
pytest.importorskip("array_record", reason="the extra tfds is not installed")

CLASSES = ("tench", "church", "radio")
SMALL = Preprocess(height=8, width=8, short_side=8)


def picture(value: int) -> np.ndarray:
    """12 x 16 px whose corner tells which picture it is."""
    pixels = np.random.default_rng(value).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    pixels[0, 0] = value
    return pixels


def encoded(value: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(value)).save(file, "PNG")
    return file.getvalue()


def example(value: int) -> dict:
    label, name = CLASSES[value % 3], f"{value}.png"
    return {"image": encoded(value), "label": label, "file_name": name}


def voc_example() -> dict:
    """In the file: xmin 3, ymin 2, xmax 11, ymax 9, counted from 1; and the whole image."""
    boxes = [(2 / 12, 3 / 16, 9 / 12, 11 / 16), (1 / 12, 1 / 16, 1.0, 1.0)]
    objects = [
        {"bbox": tfds.features.BBox(*box), "is_truncated": i == 1, "is_difficult": i == 0}
        for i, box in enumerate(boxes)
    ]
    return {"image": encoded(0), "image/filename": "000001.jpg", "objects": objects}


def write(folder, name, version, features, examples, config=None):
    """Written by the library itself, the independent side of these tests."""
    folder.mkdir(parents=True)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name, tfds.core.Version(version), str(folder), __name__, config
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features))
    writer = tfds.core.SequentialWriter(info, 10, file_format="array_record")
    writer.initialize_splits(list(examples))
    writer.add_examples(examples)
    writer.close_all()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """What `tfds build` would leave: two versions of one data set, two variants of another."""
    folder, kinds = tmp_path_factory.mktemp("tfds"), tfds.features
    features = {
        "image": kinds.Image(shape=(None, None, 3)),
        "label": kinds.ClassLabel(names=CLASSES),
        "file_name": kinds.Text(),
    }
    examples = {
        "train": [example(value) for value in range(20)],
        "validation": [example(value) for value in range(100, 106)],
    }
    for version in ("1.9.0", "1.10.0"):
        write(folder / "pictures" / version, "pictures", version, features, examples)
    flags = {"is_truncated": np.bool_, "is_difficult": np.bool_}
    voc_features = {
        "image": kinds.Image(),
        "image/filename": kinds.Text(),
        "objects": kinds.Sequence({"bbox": kinds.BBoxFeature(), **flags}),
    }
    for year in ("2007", "2012"):
        path = folder / "voc" / year / "5.0.0"
        write(path, "voc", "5.0.0", voc_features, {"test": [voc_example()]}, year)
    (folder / "voc" / ".config").mkdir()  # with the name of the usual variant
    return folder


@pytest.fixture
def own_copy(data_dir, tmp_path):
    """One version of the pictures, to be damaged."""
    return shutil.copytree(data_dir / "pictures" / "1.10.0", tmp_path / "copy")


@pytest.fixture
def source(data_dir) -> RecordSource:
    return open_source(f"pictures@{data_dir}", "train")


def test_images_and_labels_are_those_that_the_library_reads(source, data_dir):
    expected = tfds.builder_from_directory(data_dir / "pictures" / "1.10.0").as_data_source("train")
    assert len(source) == len(expected) == 20
    assert source.class_names == CLASSES
    for i, record in enumerate(expected):
        np.testing.assert_array_equal(source[i].image, record["image"])
        assert source[i].label == record["label"]
        assert source.file_names[i] == record["file_name"].decode()
    assert isinstance(source, EncodedSource)


def test_all_images_are_there_once(source):
    values = sorted(int(source.file_names[i].removesuffix(".png")) for i in range(len(source)))
    assert values == list(range(20))
    assert source.file_names[:2] == (source.file_names[0], source.file_names[1])


class Counted:
    """Records that count how often each is read."""

    def __init__(self, records):
        self.records, self.reads = records, collections.Counter()

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.records[index]


def test_a_record_is_read_once_for_its_name_and_not_at_all_after_its_image(source):
    counted = dataclasses.replace(source, records=Counted(source.records))
    expected = [source.file_names[i] for i in range(5)]
    images = [counted[i] for i in range(3)]
    for _ in range(3):
        assert [counted.file_names[i] for i in range(5)] == expected
    assert counted.records.reads == dict.fromkeys(range(5), 1)
    assert len(images) == 3


def test_names_of_the_same_images_are_equal_without_a_read(data_dir):
    first, second = (open_source(f"pictures@{data_dir}", "train") for _ in range(2))
    counted = dataclasses.replace(first, records=Counted(first.records))
    assert counted.file_names == second.file_names
    assert counted.file_names != open_source(f"pictures@{data_dir}", "val").file_names
    assert not counted.records.reads


def test_records_that_lack_what_is_needed_are_damaged(source):
    from tensorflow_datasets.proto import tf_example_pb2

    record = tf_example_pb2.Example()
    record.features.feature["image"].bytes_list.value.append(b"x")
    record.features.feature["label"].bytes_list.value.append(b"0")  # no whole number
    record.features.feature["file_name"].bytes_list.SetInParent()  # empty
    damaged = dataclasses.replace(source, records=[record.SerializeToString()])
    for read in (damaged.encoded, damaged.file_names.__getitem__):
        with pytest.raises(InputError, match=r"damaged \(lacks \['file_name', 'label'\]\)"):
            read(0)


def test_class_names_are_composed_as_those_of_folders_are(tmp_path):
    decomposed, kinds = "e\u0301tang", tfds.features
    features = {"image": kinds.Image(), "label": kinds.ClassLabel(names=[decomposed, "b"])}
    examples = {"train": [{"image": encoded(0), "label": 0}]}
    write(tmp_path / "ponds" / "1.0.0", "ponds", "1.0.0", features, examples)
    assert open_source(str(tmp_path / "ponds"), "train").class_names == ("\u00e9tang", "b")


def test_a_split_whose_labels_are_not_published_has_no_classes(tmp_path):
    kinds = tfds.features
    features = {"image": kinds.Image(), "label": kinds.ClassLabel(names=["a", "b"])}
    examples = {
        "train": [{"image": encoded(0), "label": 0}],
        "test": [{"image": encoded(1), "label": -1}],
    }
    write(tmp_path / "ponds" / "1.0.0", "ponds", "1.0.0", features, examples)
    assert open_source(str(tmp_path / "ponds"), "train").class_names == ("a", "b")
    source = open_source(str(tmp_path / "ponds"), "val")  # which stands for test
    assert (source.class_names, source[0].label) == ((), -1)
    assert "labels are not published" in why_no_classes(source)


@pytest.mark.parametrize(
    ("data", "split", "count"),
    [
        ("pictures", "train", 20),
        ("pictures", "val", 6),
        ("pictures:1.9.0", "validation", 6),
        ("pictures", "train[:90%]", 18),
        ("pictures", "train[5:8]+val", 9),
        ("voc/2007", "val", 1),
    ],
)
def test_a_name_and_a_split_find_their_images(data_dir, monkeypatch, data, split, count):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert len(open_source(data, split)) == count


def test_the_newest_version_is_taken_by_name_and_by_folder(data_dir):
    for data in (f"pictures@{data_dir}", data_dir / "pictures", data_dir / "pictures" / "1.10.0"):
        paths = open_source(str(data), "train").records.data_source._paths
        assert {str(path).split("/")[-2] for path in paths} == {"1.10.0"}


def test_the_folder_of_a_data_set_with_variants_is_known(data_dir):
    with pytest.raises(InputError, match="variants 2007, 2012"):
        open_source(str(data_dir / "voc"))
    assert len(open_source(str(data_dir / "voc" / "2007"))) == 1


def test_results_name_the_data_set_and_the_split_that_was_read(data_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert open_source("pictures").name == "pictures validation"


def test_boxes_become_pixels_of_the_file_counted_from_0(data_dir):
    sample = open_source(f"voc/2012@{data_dir}")[0]
    np.testing.assert_array_equal(sample.boxes, [[2, 1, 11, 9], [0, 0, 16, 12]])
    np.testing.assert_array_equal(sample.is_truncated, [False, True])
    np.testing.assert_array_equal(sample.is_difficult, [True, False])
    assert sample.label == -1


def test_many_threads_read_each_image_once_and_in_order(source):
    batches = list(Batches(source, SMALL, 6, workers=8))
    assert len(batches) == 4
    indices = np.concatenate([batch.indices[batch.is_real] for batch in batches])
    labels = np.concatenate([batch.labels[batch.is_real] for batch in batches])
    np.testing.assert_array_equal(indices, np.arange(20))
    np.testing.assert_array_equal(labels, [source[i].label for i in range(20)])


def test_a_missing_split_is_answered_with_those_that_exist(data_dir):
    with pytest.raises(InputError, match=r"no split 'test'\. It has train, validation"):
        open_source(f"pictures@{data_dir}", "test")


@pytest.mark.parametrize("part", ["train[abc", "train[:0]", "train[30%"])
def test_a_part_that_makes_no_sense_is_refused(data_dir, part):
    with pytest.raises(InputError, match=r"no part 'train\[.*such as train\[:90%\]"):
        open_source(f"pictures@{data_dir}", part)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        ("picturs", r"Did you mean pictures\?"),
        ("imagnette", r"Did you mean imagenette.*tfds build imagenette --file_format=array_record"),
        ("imagenet2012", r"pictures, voc/2007, voc/2012.*tfds build imagenet2012 "),
        ("pictures:1.0.0", r"no data set of that name prepared"),
        ("voc", r"prepared in the variants 2007, 2012\. Choose one: voc/2007"),
        ("voc/2013", r"voc/2007, voc/2012"),
        ("two words", r"Expected \"digits\", \"cues\", a folder"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(data_dir, monkeypatch, data, answer):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    with pytest.raises(InputError, match=answer):
        open_source(data)


def test_a_half_written_data_set_is_not_taken(data_dir, tmp_path):
    shutil.copytree(data_dir / "pictures" / "1.9.0", tmp_path / "pictures" / "1.9.0.incompleteXY")
    with pytest.raises(InputError, match="none is prepared there"):
        open_source(f"pictures@{tmp_path}")


def test_a_format_without_random_access_is_refused(own_copy):
    info = own_copy / "dataset_info.json"
    info.write_text(json.dumps(json.loads(info.read_text()) | {"fileFormat": "tfrecord"}))
    with pytest.raises(InputError, match="prepared as tfrecord.*--file_format=array_record"):
        open_source(str(own_copy))


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("text", ["", "{", "{}", "[]", '{"name": "x"}'])
def test_a_damaged_description_is_refused(own_copy, name, text):
    (own_copy / name).write_text(text)
    with pytest.raises(InputError, match=r"dataset_info\.json|features\.json|no split"):
        open_source(str(own_copy))


def test_missing_records_are_named(own_copy):
    (own_copy / "pictures-train.array_record-00001").unlink()
    with pytest.raises(InputError, match="1 files are missing.*record-00001"):
        open_source(str(own_copy), "train")


@pytest.mark.parametrize("keep", [0, 1000, 65536])
def test_damaged_records_are_named_and_can_be_skipped(own_copy, keep):
    path = own_copy / "pictures-train.array_record-00001"
    path.write_bytes(path.read_bytes()[:keep])
    source = open_source(str(own_copy), "train")
    with pytest.raises(InputError, match=r"mage \d+ of .*copy train is damaged.*--skip-unreadable"):
        list(Batches(source, SMALL, 4))
    batches = Batches(source, SMALL, 4, skip_unreadable=True)
    read = sum(int(batch.is_real.sum()) for batch in batches)
    assert read + len(batches.skipped) == 20
    assert batches.skipped


def test_data_sets_without_images_are_refused(own_copy):
    features = json.loads((own_copy / "features.json").read_text())
    del features["featuresDict"]["features"]["image"]
    (own_copy / "features.json").write_text(json.dumps(features))
    with pytest.raises(InputError, match=r"Expected a data set of images.*file_name"):
        open_source(str(own_copy))


def test_without_the_library_the_cure_is_named(data_dir, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'regvit-jax\[tfds\]'"):
        open_source(str(data_dir / "pictures"))


def test_tensorflow_is_not_imported_even_where_it_is_installed(data_dir, tmp_path):
    """In a fresh interpreter with a TensorFlow that ends the program when it is imported."""
    (tmp_path / "tensorflow").mkdir()
    (tmp_path / "tensorflow" / "__init__.py").write_text("raise SystemExit('imported')")
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
from regvit_jax.data import open_source
source = open_source("pictures@{data_dir}", "train[:50%]")
print(len([source[i] for i in range(len(source))]), source.file_names[0])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "10 0.png\n"


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
@pytest.mark.parametrize(
    "name", ["os.system", "tensorflow_datasets.core.features", "features.X", ""]
)
def test_a_description_that_names_foreign_classes_is_refused(own_copy, key, name):
    path = next(own_copy.rglob("features.json"))
    found = json.loads(path.read_text())
    inner = next(iter(found["featuresDict"]["features"].values()))
    inner.pop("pythonClassName", None)
    inner[key] = name
    path.write_text(json.dumps(found))
    with pytest.raises(InputError, match="names the Python class"):
        RecordSource.open(path.parent, "train")
