"""Which images do files, folders and patterns after `--data` name?"""

import json
import os

import pytest
from PIL import Image

from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.image_folder import why_no_classes
from regvit_jax.source import EncodedSource

NAMES = ("b.png", "a.jpg", "x/1.png", "x/2.PNG", "x/deep/3.png", "x/@eaDir/4.png", "odd.photo")


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(NAMES):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / name, "PNG")
    (tmp_path / "x/notes.txt").write_text("no image")
    (tmp_path / "x/results").mkdir()
    (tmp_path / "x/results/results.json").write_text(json.dumps({"format": 1, "analysis": "norms"}))
    Image.new("RGB", (8, 6)).save(tmp_path / "x/results/figure.png")
    return tmp_path


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b.png"], ["b.png"]),
        (["b.png", "a.jpg", "b.png"], ["b.png", "a.jpg"]),
        (["odd.photo"], ["odd.photo"]),  # it was named
        (["x"], ["x/1.png", "x/2.PNG", "x/deep/3.png"]),
        (["x/*.png"], ["x/1.png"]),
        (["x/*.[pP]*", "a.jpg"], ["x/1.png", "x/2.PNG", "a.jpg"]),
        (["x/**/*.png"], ["x/1.png", "x/deep/3.png"]),
        (["a.jpg", "x/deep"], ["a.jpg", "x/deep/3.png"]),
        (["x/results/figure.png"], ["x/results/figure.png"]),
    ],
)
def test_names_stand_for_images_in_their_order(folder, names, expected, monkeypatch):
    monkeypatch.chdir(folder)
    for start in ("", f"{folder}/"):
        source = open_source("\n".join(start + name for name in names))
        assert isinstance(source, EncodedSource)
        files = [os.path.relpath(source.root / name, folder) for name in source.file_names]
        assert files == expected
        red = [source[i].image.getpixel((0, 0))[0] for i in range(len(source))]
        assert red == [NAMES.index(name) if name in NAMES else 0 for name in expected]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(folder):
    for name in ("[1].png", "two\nlines.png"):
        Image.new("RGB", (8, 6)).save(folder / name)
        assert open_source(str(folder / name)).file_names == (name,)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("a.jpg\nabsent.png", "There is no image .*absent.png.*a data set stands alone"),
        ("x/*.tif", r"x/\*\.tif stands for no image"),
        ("a.jpg\ndigits", "There is no image .*digits"),
    ],
)
def test_names_of_nothing_are_refused(folder, names, message):
    data = "\n".join(str(folder / name) for name in names.splitlines())
    with pytest.raises(InputError, match=message):
        open_source(data)


def test_a_thousand_names_are_not_taken_for_one(folder):
    names = [str(folder / "a.jpg")] * 1000 + [str(folder / "b.png")]
    assert open_source("\n".join(names)).file_names == ("a.jpg", "b.png")


def test_what_is_no_image_is_named_when_it_is_read(folder):
    source = open_source(str(folder / "x/notes.txt"))
    with pytest.raises(InputError, match=r"notes\.txt is not an image"):
        source[0]


def test_results_tell_how_many_there_are_and_where(folder):
    assert open_source(str(folder / "a.jpg")).name == str(folder / "a.jpg")
    source = open_source(f"{folder / 'a.jpg'}\n{folder / 'x/1.png'}")
    assert source.name == f"{folder} (2 images)"
    assert why_no_classes(source) == "They are named one by one."
