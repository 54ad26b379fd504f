"""What lies beside images does not become an image, a class or a split."""

import unicodedata

import pytest
from PIL import Image

from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import FolderSource, why_no_classes
from regvit_jax.source import check_same_classes


def put(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)


@pytest.mark.parametrize("rubbish", ["@eaDir", "__MACOSX", ".ipynb_checkpoints", "lost+found"])
def test_what_other_programs_leave_is_no_class(tmp_path, rubbish):
    put(tmp_path / "a/1.png")
    put(tmp_path / rubbish / "2.png")
    put(tmp_path / "a" / rubbish / "3.png")
    source = FolderSource.open(tmp_path)
    assert source.class_names == ("a",)
    assert source.file_names == ("a/1.png",)


def test_our_own_results_and_runs_are_no_images(tmp_path):
    put(tmp_path / "a/1.png")
    put(tmp_path / "norms/figure.png")
    (tmp_path / "norms/results.json").write_text('{\n "format": 1,\n "analysis": "norms"}')
    put(tmp_path / "run/samples.png")
    (tmp_path / "run/steps").mkdir()
    (tmp_path / "run/recipe.json").write_text("{}")
    put(tmp_path / "mine/2.png")
    (tmp_path / "mine/results.json").write_text("[]")
    assert FolderSource.open(tmp_path).class_names == ("a", "mine")


def test_splits_below_a_folder_are_not_mixed(tmp_path):
    for split in ("train", "val", "test"):
        put(tmp_path / "ILSVRC/CLS-LOC" / split / "1.png")
    with pytest.raises(InputError, match=r"CLS-LOC holds the splits test, train, val.*--data"):
        open_source(str(tmp_path))
    assert len(open_source(str(tmp_path / "ILSVRC/CLS-LOC"))) == 1


def test_a_photograph_beside_class_folders_is_named(tmp_path):
    put(tmp_path / "a/1.png")
    put(tmp_path / "stray.png")
    assert "stray.png" in why_no_classes(FolderSource.open(tmp_path))


def test_names_of_classes_are_the_same_however_the_disk_writes_them(tmp_path):
    sources = []
    for form in ("NFC", "NFD"):
        put(tmp_path / form / unicodedata.normalize(form, "café") / "1.png")
        sources.append(FolderSource.open(tmp_path / form))
    check_same_classes(*sources)
    assert [source[0].label for source in sources] == [0, 0]


@pytest.mark.parametrize("names", [("Train", "Val"), ("TRAIN", "test"), ("training", "Validation")])
def test_splits_are_known_however_they_are_capitalised(tmp_path, names):
    for name in names:
        put(tmp_path / name / "a/1.png")
        put(tmp_path / name / "b/1.png")
    source = open_source(str(tmp_path), "val")
    assert source.class_names == ("a", "b")
    assert source.root == tmp_path / names[1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train2017", "val2017"), r"look like parts of a data set.*--data .*val2017"),
        (("images", "masks"), r"holds masks beside images.*--data .*images"),
        (("JPEGImages", "SegmentationClass"), r"holds SegmentationClass beside JPEGImages"),
    ],
)
def test_parts_and_masks_are_no_classes(tmp_path, names, message):
    for name in names:
        put(tmp_path / name / "1.png")
    with pytest.raises(InputError, match=message):
        open_source(str(tmp_path))


def test_a_folder_without_images_says_what_it_holds(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/train-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"it holds data/train-00000\.parquet\."):
        open_source(str(tmp_path))


@pytest.mark.parametrize("split", ["vla", "train[:50%]", "", "train+vla"])
def test_a_part_of_a_folder_without_parts_is_refused(tmp_path, split):
    put(tmp_path / "a/1.png")
    for data in (tmp_path, tmp_path / "a/1.png", tmp_path / "a/*.png"):
        with pytest.raises(InputError, match=r"have no parts.*Leave out --split"):
            open_source(str(data), split)
        assert len(open_source(str(data), "train")) == len(open_source(str(data), "trainval")) == 1


@pytest.mark.parametrize("data", ["", " "])
def test_data_that_are_not_named_are_not_those_of_the_current_folder(tmp_path, monkeypatch, data):
    put(tmp_path / "a/1.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="Nothing is named after --data"):
        open_source(data)
