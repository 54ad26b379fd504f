"""Does `regvit-analyze lost` work from end to end, and end clearly on bad input?"""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import ExifTags, Image

from regvit_jax import load
from regvit_jax.analysis.cli import main
from regvit_jax.analysis.discovery.features import patch_features
from regvit_jax.analysis.discovery.lost import lost
from regvit_jax.preprocess import Preprocess

SIZES = ((40, 32), (38, 29), (29, 38), (40, 32), (37, 31), (39, 30), (30, 40), (40, 29))
# Padded to patches of 4 px they are of two shapes.
OBJECT = (
    "<object><name>cat</name><truncated>{}</truncated><difficult>0</difficult><bndbox>"
    "<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
LYING, WITHOUT_OBJECT = 2, 5


def call(*arguments) -> int:
    """Exit status of the command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["regvit-analyze", "lost", *map(str, arguments)])
        try:
            main()
        except SystemExit as end:
            return end.code or 0
    return 0


def read(folder: Path, name: str = "results.json"):
    return json.loads((folder / name).read_text())


def write_voc(root: Path) -> Path:
    """A VOC root of eight pictures; one is turned by EXIF, one has no object."""
    year = root / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (year / name).mkdir(parents=True)
    generator = np.random.default_rng(8)
    for i, (width, height) in enumerate(SIZES):
        coarse = Image.fromarray(generator.integers(0, 256, (6, 6, 3)).astype(np.uint8))
        image = coarse.resize((width, height), Image.Resampling.BICUBIC)
        exif = Image.Exif()
        if i == LYING:
            image, exif[ExifTags.Base.Orientation] = image.transpose(Image.Transpose.ROTATE_90), 6
        image.save(year / f"JPEGImages/{i:06d}.jpg", exif=exif, quality=95)
        boxes = [] if i == WITHOUT_OBJECT else [(i % 2, 3, 4, 3 + width // 2, 4 + height // 2)]
        text = "".join(OBJECT.format(*box) for box in boxes)
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (year / f"Annotations/{i:06d}.xml").write_text(f"<annotation>{size}{text}</annotation>")
    names = "".join(f"{i:06d}\n" for i in range(len(SIZES)))
    (year / "ImageSets/Main/trainval.txt").write_text(names)
    return root


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    return write_voc(tmp_path_factory.mktemp("voc"))


@pytest.fixture
def year(voc, tmp_path) -> Path:
    """A copy of the VOC root, to be damaged."""
    shutil.copytree(voc, tmp_path / "voc")
    return tmp_path / "voc" / "VOCdevkit" / "VOC2007"


@pytest.fixture(scope="module")
def official(tmp_path_factory, checkpoints, voc) -> Path:
    out = tmp_path_factory.mktemp("lost") / "official"
    status = call(
        *("--checkpoint", checkpoints["plain"], checkpoints["registers"], "--data", voc),
        *("--out", out, "--bootstrap", 100, "--k", 20, "--num-shown", 3),
        *("--feature", "key", "value"),
    )
    assert status == 0
    return out


def test_boxes_at_full_resolution_equal_images_taken_one_by_one(official, checkpoints, voc):
    """Padded by hand, one image at a time, without groups, batches or threads."""
    boxes = read(official, "predictions_registers.json")
    model, params = load(checkpoints["registers"])

    @jax.jit
    def find(images):
        layout = model.layout(images.shape)
        trace = model.apply({"params": params}, images, method="trace")
        return lost(patch_features(trace, layout, 2, "key"), layout.grid, k=20).boxes[0]

    assert len(boxes) == len(SIZES)
    for i, name in enumerate(sorted(boxes)):
        width, height = SIZES[i]
        with Image.open(voc / "VOCdevkit/VOC2007/JPEGImages" / name) as file:
            upright = file.transpose(Image.Transpose.ROTATE_270) if i == LYING else file
            pixels = np.asarray(upright)
        assert pixels.shape[:2] == (height, width)
        normalised = np.asarray(Preprocess().normalise(pixels))
        images = np.zeros((1, -(-height // 4) * 4, -(-width // 4) * 4, 3), np.float32)
        images[0, :height, :width] = normalised
        expected = 4 * np.asarray(find(images))
        assert boxes[name] == np.minimum(expected, [width, height] * 2).tolist()


def test_results_say_what_they_rest_on(official):
    results = read(official)
    assert results["frame"]["name"] == "file"
    assert results["rules"]["gram_bias"] == 0
    assert results["rules"]["k"] == 20
    data = results["data"]
    assert data["split"] == "trainval"
    assert (data["num_images"], data["num_with_object"], data["num_without_object"]) == (8, 7, 1)
    model = results["models"][1]
    assert model["predictions"] == "predictions_registers.json"
    numbers = model["numbers"]
    settings = [key for key in numbers if key.startswith("lost_settings/")]
    expected = [f"lost_settings/{feature}/2/0/corloc" for feature in ("key", "value")]
    assert [key for key in settings if key.endswith("/corloc")] == expected
    assert (model["feature"], model["layer"], model["gram_bias"]) == ("key", 2, 0)
    for quantity in ("corloc", "best_iou", "num_found", "seeds_outside_mask"):
        assert numbers[f"lost/{quantity}"] == numbers[f"lost_settings/key/2/0/{quantity}"]
    assert numbers["lost/corloc"]["n"] == 7
    assert {b["name"] for b in results["baselines"]} == {"central_box", "full_image"}
    (comparison,) = results["comparisons"]
    assert (comparison["from"], comparison["to"]) == ("plain", "registers")
    assert comparison["differences"]["lost/corloc"]["n"] == 7
    assert comparison["differences"]["mcnemar/p_value"]["n"] == 7


def test_differences_from_boxes_that_look_at_nothing_are_of_the_same_images(official):
    results = read(official)
    for model in results["models"]:
        numbers = model["numbers"]
        for baseline in results["baselines"]:
            for quantity, theirs in (("corloc", "corloc"), ("best_iou", "mean_best_iou")):
                found = numbers[f"lost_against/{baseline['name']}/{quantity}"]
                expected = numbers[f"lost/{quantity}"]["value"] - baseline[theirs]["value"]
                assert found["value"] == pytest.approx(expected, abs=1e-12)
                assert found["n"] == 7
            place = f"lost_against/{baseline['name']}"
            won, lost_to = (numbers[f"{place}/only_{x}"]["value"] for x in ("lost", "baseline"))
            assert won - lost_to == pytest.approx(7 * numbers[f"{place}/corloc"]["value"])


def test_tables_and_figures_are_complete(official):
    results = read(official)
    present = {path.name for path in official.iterdir()}
    assert present == {*results["files"], "results.json"}
    assert {figure["file"] for figure in results["figures"]} == {
        "lost_boxes.png",
        "lost_corloc.png",
    }
    with (official / "boxes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    boxes = read(official, "predictions_plain.json")
    for row in rows[:8]:
        assert [int(row[name]) for name in ("x0", "y0", "x1", "y1")] == boxes[row["file_name"]]
        x, y = float(row["seed_x"]), float(row["seed_y"])
        assert float(row["x0"]) < x < float(row["x1"]) + 4
        assert float(row["y0"]) < y < float(row["y1"]) + 4
    scored = [row for row in rows[:8] if row["is_hit"]]
    found = sum(int(row["is_hit"]) for row in scored)
    assert (len(scored), found) == (7, results["models"][0]["numbers"]["lost/num_found"]["value"])
    assert rows[WITHOUT_OBJECT]["best_iou"] == ""


def test_the_study_drops_images_without_an_object_that_counts(tmp_path, checkpoints, voc):
    out = tmp_path / "out"
    arguments = ("--checkpoint", checkpoints["plain"], "--data", voc, "--bootstrap", 100)
    assert call(*arguments, "--out", out, "--protocol", "study", "--image-size", 32) == 0
    results = read(out)
    assert results["frame"]["name"] == "crop"
    assert results["data"]["num_dropped"] == 4  # three truncated, one without any
    assert results["models"][0]["gram_bias"] == 0.05
    assert results["models"][0]["feature"] == "value"
    assert sorted(read(out, "predictions.json")) == [f"00000{i}.jpg" for i in (0, 2, 4, 6)]


def test_a_folder_without_annotations_gets_boxes_only(tmp_path, checkpoints, pictures, capsys):
    out = tmp_path / "out"
    status = call(
        *("--checkpoint", checkpoints["plain"], "--data", pictures / "ant", "--out", out),
        *("--num-images", 6, "--bootstrap", 100, "--num-shown", 2, "--layer", 0, -1),
    )
    assert status == 0
    assert "no CorLoc" in capsys.readouterr().out
    results = read(out)
    assert results["data"]["is_annotated"] is False
    assert results["models"][0]["numbers"].keys() == {
        "lost/seeds_outside_mask",
        "lost_outliers/seed_is_outlier",
        "lost_outliers/outliers",
        *(f"lost_settings/value/{layer}/0/seeds_outside_mask" for layer in (0, 2)),
    }
    assert "no CorLoc" in results["metric"]
    assert results["baselines"] == results["comparisons"] == []
    assert len(read(out, "predictions.json")) == 6
    assert [figure["file"] for figure in results["figures"]] == ["lost_boxes.png"]


def test_missing_and_broken_files_are_all_named_and_skipped_on_request(
    tmp_path, checkpoints, year, capsys
):
    (year / "Annotations/000001.xml").unlink()
    (year / "Annotations/000003.xml").write_text("<annotation><object>")
    (year / "JPEGImages/000004.jpg").unlink()
    whole = (year / "JPEGImages/000006.jpg").read_bytes()
    (year / "JPEGImages/000006.jpg").write_bytes(whole[: len(whole) * 9 // 10])
    arguments = ("--checkpoint", checkpoints["plain"], "--data", year, "--bootstrap", 100)
    arguments += ("--frame", "crop", "--out", tmp_path / "out")
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    for part in ("3 of 8", "000001.xml", "000003.xml is broken XML", "000004.jpg", "--skip-un"):
        assert part in error
    assert not (tmp_path / "out").exists()
    assert call(*arguments, "--skip-unreadable") == 0
    data = read(tmp_path / "out")["data"]
    assert data["num_images"] == 4
    assert len(data["skipped"]) == 4
    assert "000006.jpg" in data["skipped"][3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer", 3), "depth 3"),
        (("--feature", "token"), "token"),
        (("--k", 0), "--k must be at least 1"),
        (("--image-size", 32), "--frame crop"),
        (("--max-patches", 50), "000000.jpg .* 80 patches"),
        (("--gram-bias", "nan"), "finite"),
        (("--show", "zebra"), "zebra"),
    ],
)
def test_bad_options_end_with_status_2(tmp_path, checkpoints, voc, capsys, arguments, message):
    out = tmp_path / "out"
    status = call("--checkpoint", checkpoints["plain"], "--data", voc, "--out", out, *arguments)
    captured = capsys.readouterr()
    assert status == 2
    assert re.search(message, captured.err + captured.out)
    assert "Traceback" not in captured.err
    assert not out.exists()


def test_images_that_are_all_hard_or_unreadable_end_with_a_message(
    tmp_path, checkpoints, year, capsys
):
    arguments = ("--checkpoint", checkpoints["plain"], "--data", year, "--out", tmp_path / "out")
    for path in (year / "Annotations").iterdir():
        path.write_text(path.read_text().replace("<difficult>0", "<difficult>1"))
    assert call(*arguments, "--protocol", "study") == 2
    assert "--drop-hard False" in capsys.readouterr().err
    for path in (year / "JPEGImages").iterdir():
        path.write_bytes(b"no picture")
    assert call(*arguments, "--skip-unreadable") == 2
    assert "8 of 8 images cannot be read" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
