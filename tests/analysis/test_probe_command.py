"""Does `regvit-analyze probe` work from end to end, and end clearly on bad input?"""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.analysis.conftest import call


def read(folder: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} in results.json")

    return json.loads((folder / "results.json").read_text(), parse_constant=refuse)


CLS = "probe/cls/logistic/accuracy"
FEW = ("--num-strengths", 3, "--draws", 2, "--bootstrap", 100, "--neighbours", 3, 10)


@pytest.fixture(scope="module")
def probed(tmp_path_factory, checkpoints, pictures):
    out = tmp_path_factory.mktemp("probed") / "probe"
    with pytest.MonkeyPatch.context() as patch:
        status = call(
            patch,
            *("probe", "--checkpoint", checkpoints["planted"], checkpoints["registers"]),
            *("--data", pictures, "--out", out, *FEW),
        )
    assert status == 0
    return out


def test_every_kind_has_an_accuracy_with_an_interval(probed):
    results = read(probed)
    assert results["analysis"] == "probe"
    assert results["data"]["num_images"] == 40
    assert results["data"]["num_train"] == 160
    assert not results["data"]["splits_are_the_data_sets_own"]
    planted, registers = results["models"]
    assert list(planted["fits"])[:3] == ["cls", "mean_patch", "normal_patch"]
    left_out = [remark for remark in registers["remarks"] if ": not probed. " in remark]
    assert len(registers["fits"]) + len(left_out) == 13
    for kind, fits in registers["fits"].items():
        is_drawn = kind in ("normal_patch", "outlier_patch", "normal_patch_beside")
        for method in ("logistic", "neighbours"):
            place = f"probe/{kind}/{method}"
            accuracy = registers["numbers"][f"{place}/accuracy"]
            low, high = accuracy["interval"]
            assert 0 <= low <= accuracy["value"] <= high <= 1
            assert registers["numbers"][f"{place}/num_draws"]["value"] == len(
                fits[method]["chosen"]
            )
            assert (f"{place}/sd_over_draws" in registers["numbers"]) is is_drawn
        assert len(fits["logistic"]["chosen"]) == (2 if is_drawn else 1)
    assert 0 < planted["numbers"]["probe_outliers/training_images"]["value"] <= 1


def test_models_and_kinds_are_compared_on_the_same_images(probed):
    results = read(probed)
    (pair,) = results["comparisons"]
    assert (pair["from"], pair["to"]) == ("planted", "registers")
    assert {CLS, "probe/mean_patch/neighbours/accuracy"} <= set(pair["differences"])
    values = [model["numbers"][CLS]["value"] for model in results["models"]]
    assert pair["differences"][CLS]["value"] == pytest.approx(values[1] - values[0], abs=1e-6)
    for model in results["models"]:
        numbers = model["numbers"]
        for method in ("logistic", "neighbours"):
            cls, mean = (
                numbers[f"probe/{kind}/{method}/accuracy"] for kind in ("cls", "mean_patch")
            )
            between = numbers[f"between_kinds/cls/mean_patch/{method}/difference"]
            assert between["value"] == pytest.approx(mean["value"] - cls["value"], abs=1e-6)


def test_files_are_those_that_the_results_name(probed):
    results = read(probed)
    present = {path.name for path in probed.iterdir()}
    assert present == {*results["files"], "results.json"}
    for figure in results["figures"]:
        assert (probed / figure["file"]).stat().st_size > 1000
    with (probed / "probe.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["method"] for row in rows} == {"logistic", "neighbours"}


def test_splits_and_fewer_images_are_respected(monkeypatch, tmp_path, checkpoints, pictures):
    for split in ("train", "val"):
        shutil.copytree(pictures, tmp_path / "data" / split)
    status = call(
        monkeypatch,
        *("probe", "--checkpoint", checkpoints["plain"], "--data", tmp_path / "data"),
        *(
            "--out",
            tmp_path / "out",
            "--num-train-images",
            40,
            "--num-images",
            30,
            "--features",
            "last",
        ),
        *("--outlier", "absolute_150", *FEW),
    )
    assert status == 0
    results = read(tmp_path / "out")
    assert results["data"]["num_train"] == 40
    assert results["data"]["num_images"] == 30
    assert results["data"]["splits_are_the_data_sets_own"]
    (model,) = results["models"]
    assert model["probed"] == "before the last LayerNorm"
    (reason,) = (remark for remark in model["remarks"] if remark.startswith("outlier_patch: "))
    assert reason.startswith("outlier_patch: not probed. 0 training images")
    assert "outlier_patch" not in model["fits"]
    assert not [key for key in model["numbers"] if "/outlier_patch/" in key]
    assert model["numbers"]["probe_outliers/validation_images"]["value"] == 0


def bad_data(case: str, folder: Path, pictures: Path) -> Path:
    """A data folder that a probe cannot use."""
    files = sorted((pictures / "ant").iterdir())[:4]
    places = {
        "unlabelled": [folder / "a"],
        "one class": [folder / "a" / "ant"],
        "unlike classes": [
            folder / "train" / "ant",
            folder / "train" / "bee",
            folder / "val" / "ant",
        ],
    }
    for place in places[case]:
        place.mkdir(parents=True)
        for file in files:
            shutil.copy(file, place / file.name)
    return folder / "a" if case != "unlike classes" else folder


@pytest.mark.parametrize(
    ("case", "message"),
    [("unlabelled", "no classes"), ("one class", "class ant only"), ("unlike classes", "bee")],
)
def test_data_without_usable_classes_are_refused(
    case, message, monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    data = bad_data(case, tmp_path / "data", pictures)
    status = call(
        monkeypatch,
        *("probe", "--checkpoint", checkpoints["plain"], "--data", data, "--out", tmp_path / "out"),
    )
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_class_without_a_training_image_is_named(
    monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    status = call(
        monkeypatch,
        *("probe", "--checkpoint", checkpoints["plain"], "--data", pictures),
        *("--num-train-images", 1, "--out", tmp_path / "out", *FEW),
    )
    assert status == 2
    assert "1 classes have no image" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [("--draws", 0), ("--split", "train"), ("--neighbours", 0), ("--num-strengths", 0)]
)
def test_options_that_make_no_sense_are_refused(
    arguments, monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    status = call(
        monkeypatch,
        *("probe", "--checkpoint", checkpoints["plain"], "--data", pictures),
        *("--out", tmp_path / "out", *arguments),
    )
    assert status == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_comparison_reads_the_probe(monkeypatch, tmp_path, probed, capsys):
    assert call(monkeypatch, "compare", "--results", probed, "--out", tmp_path / "out") == 0
    results = read(tmp_path / "out")
    names = {row["name"]: row for row in results["headlines"]}
    change = names[CLS]["differences"]["registers"]
    expected = read(probed)["comparisons"][0]["differences"][CLS]
    assert change == expected
    assert names["probe/mean_register/logistic/accuracy"]["values"].keys() == {"registers"}
    assert np.isfinite([row["value"] for row in names[CLS]["values"].values()]).all()
