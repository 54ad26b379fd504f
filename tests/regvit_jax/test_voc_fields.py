"""Annotations as tools write them: words for flags, other encodings, frames before EXIF's turn."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regvit_jax.annotations import read_annotation
from regvit_jax.boxes import turned_upright
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.voc import VocSource

BOX = "<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"


def xml(more: str = "", size: tuple[int, int] | None = (64, 48), head: str = "") -> str:
    said = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>" if size else ""
    return f"{head}<annotation>{said}<object><name>狗</name>{more}{BOX}</object></annotation>"


def make_root(root: Path, orientation: int, size: tuple[int, int] | None) -> Path:
    year = root / "VOC2012_train_val"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    exif = Image.Exif()
    exif[0x112] = orientation
    Image.new("RGB", (64, 48)).save(year / "JPEGImages/a.jpg", exif=exif)
    (year / "Annotations/a.xml").write_text(xml(size=size), encoding="utf-8")
    (year / "ImageSets/Main/trainval.txt").write_bytes(b"\xef\xbb\xbfa.jpg\r\n\r\n")
    return root


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("True", True), ("0.0597", True), ("Unspecified", False), ("0", False), ("", False)],
)
def test_flags_may_be_words_or_parts(tmp_path, text, wanted):
    (tmp_path / "a.xml").write_text(xml(f"<truncated>{text}</truncated>"), encoding="utf-8")
    assert read_annotation(tmp_path / "a.xml").is_truncated.tolist() == [wanted]


@pytest.mark.parametrize("encoding", ["gb2312", "big5", "utf-16", "utf-8"])
def test_annotations_of_other_encodings_are_read(tmp_path, encoding):
    text = xml(head=f'<?xml version="1.0" encoding="{encoding}"?>')
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert read_annotation(tmp_path / "a.xml").names == ("狗",)


@pytest.mark.parametrize(
    "text",
    [
        '<?xml version="1.0" encoding="martian"?><annotation/>',
        '<?xml version="1.0" encoding="zlib"?><annotation/>',
        "<a>" * 100_000,
        xml("<truncated>perhaps</truncated>"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "a.xml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.xml"):
        read_annotation(tmp_path / "a.xml")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_turn_with_the_pixels(orientation):
    stored = np.zeros((48, 64), np.uint8)
    stored[5:40, 4:30] = 255
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(stored)
    image.getexif()[0x112] = orientation
    from PIL import ImageOps

    rows, cols = np.nonzero(np.asarray(ImageOps.exif_transpose(image)))
    found = turned_upright(np.array([[4.0, 5, 30, 40]]), orientation, 64, 48)
    assert found.tolist() == [[cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]]


def test_boxes_of_the_stored_frame_are_turned_and_of_the_upright_one_kept(tmp_path):
    stored = open_source(str(make_root(tmp_path / "stored", 6, (64, 48))))[0]
    upright = open_source(str(make_root(tmp_path / "upright", 6, (48, 64))))[0]
    assert stored.image.size == upright.image.size == (48, 64)
    assert stored.boxes.tolist() == [[8, 4, 43, 30]]
    assert upright.boxes.tolist() == [[4, 5, 30, 40]]


@pytest.mark.parametrize(
    ("orientation", "size", "words"),
    [(3, (64, 48), "orientation 3"), (6, None, "orientation 6"), (1, (640, 480), "640 x 480")],
)
def test_a_frame_that_cannot_be_told_is_refused(tmp_path, orientation, size, words):
    with pytest.raises(InputError, match=words):
        open_source(str(make_root(tmp_path, orientation, size)))[0]


def test_a_split_that_is_no_list_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no tset.txt.*trainval"):
        open_source(str(make_root(tmp_path, 1, None)), "tset")


def test_a_year_is_known_by_what_it_holds_not_by_its_name(tmp_path):
    assert len(open_source(str(make_root(tmp_path / "more" / "less", 1, None).parent))) == 1


def test_a_root_without_annotations_says_so_where_they_are_asked_for(tmp_path):
    root = make_root(tmp_path, 1, None)
    (root / "VOC2012_train_val/Annotations/a.xml").unlink()
    (root / "VOC2012_train_val/Annotations").rmdir()
    source = VocSource.open(root)
    assert source[0].boxes.shape == (0, 4)
    with pytest.raises(InputError, match="no folder Annotations"):
        source.annotation(0)


@pytest.mark.parametrize("field", ["xmin", "ymax", "bndbox", "name"])
def test_a_field_given_twice_is_refused_instead_of_joined(tmp_path, field):
    text = xml()
    (whole,) = re.findall(f"<{field}>.*?</{field}>", text, re.DOTALL)[:1]
    (tmp_path / "a.xml").write_text(text.replace(whole, whole + whole, 1))
    with pytest.raises(InputError, match=f"gives {field} of an object twice"):
        read_annotation(tmp_path / "a.xml")
