"""Are VOC roots read as they are meant, and refused clearly where they are broken?"""

import shutil

import numpy as np
import pytest
from PIL import Image

from regvit_jax.annotations import read_annotation
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.source import EncodedSource, Source
from regvit_jax.voc import AssumedList, VocSource, voc_year

OBJECT = """<object><name>{name}</name><truncated>{truncated}</truncated>
<difficult>{difficult}</difficult><bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>
<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"""


def annotation(*objects) -> str:
    return "<annotation><size/>" + "".join(OBJECT.format(**o) for o in objects) + "</annotation>"


CAT = {"name": "cat", "truncated": 1, "difficult": 0, "box": (1, 1, 20, 10)}
DOG = {"name": "dog", "truncated": 0, "difficult": 1, "box": (3.5, 4, 9, 16)}


@pytest.fixture
def year(tmp_path):
    """A VOC root of three images; the last one shows no object."""
    year = tmp_path / "root" / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    for i, text in enumerate((annotation(CAT, DOG), annotation(DOG), annotation())):
        Image.new("RGB", (20, 16 + i), (i, 0, 0)).save(year / f"JPEGImages/00000{i}.jpg")
        (year / f"Annotations/00000{i}.xml").write_text(text)
    (year / "ImageSets/Main/trainval.txt").write_text("000002\n000000\n\n000001\n")
    (year / "ImageSets/Main/val.txt").write_text("000001  1\n")
    return year


def test_a_root_is_recognised_at_every_level(year):
    root = year.parents[1]
    assert voc_year(root) == voc_year(root / "VOCdevkit") == voc_year(year) == year
    assert voc_year(root.parent) == year
    assert voc_year(root.parents[1]) is None
    source = open_source(str(root), "trainval")
    assert isinstance(source, Source)
    assert isinstance(source, EncodedSource)
    assert source.file_names == ("000002.jpg", "000000.jpg", "000001.jpg")
    assert source.name == f"{year} trainval"


def test_the_list_is_chosen_by_split_and_trainval_stands_in(year):
    assert open_source(str(year), "val").file_names == ("000001.jpg",)
    assert len(open_source(str(year), "train")) == 3
    assert open_source(str(year), "train").name.endswith("trainval")


def test_boxes_are_half_open_and_flags_are_kept(year):
    sample = VocSource.open(year)[1]
    assert sample.image.size == (20, 16)
    np.testing.assert_array_equal(sample.boxes, [[0, 0, 20, 10], [2.5, 3, 9, 16]])
    assert sample.is_truncated.tolist() == [True, False]
    assert sample.is_difficult.tolist() == [False, True]
    assert VocSource.open(year).annotation(1).names == ("cat", "dog")
    assert VocSource.open(year)[0].boxes.shape == (0, 4)


def test_the_real_sample_equals_a_plain_parser(voc_sample):
    import xml.etree.ElementTree as ElementTree

    source = open_source(str(voc_sample), "trainval")
    assert len(source) == 100
    for index in range(100):
        path = source.root / "Annotations" / source.file_names[index].replace(".jpg", ".xml")
        found = source.annotation(index)
        objects = ElementTree.parse(path).getroot().findall("object")
        corners = [
            [float(o.find(f"bndbox/{c}").text) for c in ("xmin", "ymin", "xmax", "ymax")]
            for o in objects
        ]
        np.testing.assert_array_equal(found.boxes, np.array(corners) - [1, 1, 0, 0])
        flags = [o.find("truncated").text == "1" for o in objects]
        assert found.is_truncated.tolist() == flags


def test_several_years_are_ambiguous(year):
    (year.parent / "VOC2012" / "JPEGImages").mkdir(parents=True)
    (year.parent / "VOC2012" / "ImageSets" / "Main").mkdir(parents=True)
    with pytest.raises(InputError, match="2 years of VOC. Name one: .*VOC2007.*VOC2012"):
        open_source(str(year.parent))


def test_a_root_without_annotations_has_no_boxes(year):
    for path in (year / "Annotations").iterdir():
        path.unlink()
    (year / "Annotations").rmdir()
    assert open_source(str(year))[0].boxes.shape == (0, 4)


def test_missing_lists_and_files_are_named(year):
    (year / "Annotations" / "000001.xml").unlink()
    (year / "JPEGImages" / "000000.jpg").unlink()
    source = VocSource.open(year)
    with pytest.raises(InputError, match=r"no image at .*000000\.jpg"):
        source[1]
    with pytest.raises(InputError, match=r"no image at .*000000\.jpg"):
        source.encoded(1)
    with pytest.raises(InputError, match=r"no annotation at .*000001\.xml"):
        source[2]
    for path in (year / "ImageSets" / "Main").iterdir():
        path.rename(path.with_name(f"cat_{path.name}"))
    with pytest.raises(InputError, match=r"neither val\.txt nor trainval\.txt.*cat_trainval"):
        open_source(str(year))


def test_without_lists_all_images_with_an_annotation_are_one_part(year):
    shutil.rmtree(year / "ImageSets")
    (year / "Annotations" / "000001.xml").unlink()
    for split in ("train", "val", "trainval"):
        with pytest.warns(AssumedList, match="all 2 with an annotation are taken, 1 without are"):
            source = open_source(str(year.parent), split)
        assert source.file_names == ("000000.jpg", "000002.jpg")
        assert source.name == f"{year} whole"
    assert len(source[0].boxes)
    with pytest.raises(InputError, match="nothing says which are 'test'. Leave out --split"):
        open_source(str(year), "test")
    for path in (year / "Annotations").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no image in JPEGImages with an annotation"):
        open_source(str(year))


LAUGHS = """<!DOCTYPE annotation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>
<annotation><object><name>&b;</name></object></annotation>"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "declares a document type"),
        ("<annotation><object></annotation>", "broken XML .*mismatched tag"),
        ("", "broken XML"),
        ("<html></html>", "root is <html>"),
        (annotation(DOG | {"box": (1, "x", 3, 4)}), "bndbox lacks a number"),
        (annotation(DOG | {"box": (1, "nan", 3, 4)}), "bndbox lacks a number"),
        ("<annotation><object><name>cat</name></object></annotation>", "bndbox lacks a number"),
        (annotation(DOG | {"box": (9, 4, 3, 16)}), "box is empty"),
        ("<annotation>&undeclared;</annotation>", "broken XML .*undefined entity"),
    ],
)
def test_broken_and_dangerous_annotations_are_refused(tmp_path, text, message):
    path = tmp_path / "000001.xml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"000001.xml.*{message}"):
        read_annotation(path)


@pytest.mark.parametrize(("spill", "is_taken"), [(0, True), (2, True), (3, False), (100, False)])
def test_a_box_ends_where_its_image_does(year, spill, is_taken):
    """The image has 20 x 16 px."""
    text = annotation(CAT | {"box": (1 - spill, 1, 20 + spill, 16)})
    (year / "Annotations/000000.xml").write_text(text)
    source = VocSource.open(year)
    if is_taken:
        assert source.annotation(1).boxes.tolist() == [[0, 0, 20, 16]]
    else:
        with pytest.raises(InputError, match=r"has 20 x 16 px, but its annotation has a box"):
            source.annotation(1)


def test_a_list_that_names_an_image_twice_is_refused(year):
    (year / "ImageSets/Main/trainval.txt").write_text("000000\n000001\n000000.jpg\n")
    with pytest.raises(InputError, match="names '000000' twice"):
        VocSource.open(year)


def test_two_files_for_one_name_of_a_list_are_refused(year):
    Image.new("RGB", (20, 16)).save(year / "JPEGImages/000001.png")
    with pytest.raises(InputError, match=r"holds 000001\.jpg and 000001\.png"):
        VocSource.open(year)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_windows_editors_are_read(year, encoding):
    (year / "ImageSets/Main/trainval.txt").write_bytes("000000\r\n000001\r\n".encode(encoding))
    assert VocSource.open(year).file_names == ("000000.jpg", "000001.jpg")
