"""Does `regvit-analyze similarity` work from end to end?"""

import csv
import json

import pytest

from tests.analysis.conftest import call


def row_of(model, tensor, definition):
    """The numbers of a model in one row of the table, by quantity."""
    place = f"similarity/{tensor}/{definition}/"
    return {k.removeprefix(place): v for k, v in model["numbers"].items() if k.startswith(place)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoints, pictures):
    out = tmp_path_factory.mktemp("analysed") / "similarity"
    with pytest.MonkeyPatch.context() as patch:
        status = call(
            patch,
            *("similarity", "--checkpoint", checkpoints["planted"], checkpoints["registers"]),
            *("--data", pictures, "--out", out, "--num-images", 70, "--bootstrap", 200),
        )
    assert status == 0
    return out


def test_results_hold_every_definition_and_what_it_rests_on(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["analysis"] == "similarity"
    assert results["data"]["num_images"] == 70
    assert results["measured"]["similarity"]["quantities"].keys() >= {"auc", "median_outlier"}
    for model in results["models"]:
        assert model["grid"] == [8, 8]
        for tensor in ("labels", "normed"):
            entry = row_of(model, tensor, "quantile_98")
            assert entry["share"]["interval"] is None  # by construction
            assert entry["num_outliers"]["value"] == pytest.approx(0.02 * 70 * 64, abs=1)
            # Every pair of neighbours counts twice.
            samples = entry["num_outlier_samples"]["value"] + entry["num_normal_samples"]["value"]
            assert samples == 70 * 2 * (2 * 8 * 7)
            low, high = entry["auc"]["interval"]
            assert 0 <= low <= entry["auc"]["value"] <= high <= 1
            assert entry["auc"]["n"] == 70
    planted, registers = results["models"]
    assert row_of(planted, "labels", "group")["num_outliers"]["value"] > 0
    empty = row_of(registers, "labels", "absolute_150")
    assert empty["num_outliers"]["value"] == 0
    assert "auc" not in empty
    assert planted["labels"] == "strongest"
    assert planted["where"] == "after block 1"
    assert registers["labels"] == "last"


def test_models_are_compared_and_files_are_there(folder):
    results = json.loads((folder / "results.json").read_text())
    (pair,) = results["comparisons"]
    assert (pair["from"], pair["to"], pair["paired"]) == ("planted", "registers", True)
    first, second = (row_of(m, "labels", "quantile_98")["auc"] for m in results["models"])
    difference = pair["differences"]["similarity/labels/quantile_98/auc"]
    assert difference["value"] == pytest.approx(second["value"] - first["value"], abs=1e-12)
    assert difference["interval"][0] < difference["interval"][1]
    assert "similarity/labels/absolute_150/auc" not in pair["differences"]
    names = [f[kind] for f in results["figures"] for kind in ("file", "vector")]
    names += [table["file"] for table in results["tables"]]
    for name in names:
        assert (folder / name).stat().st_size > 100
    with (folder / "similarity.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 5 + 1  # and the group
    empty = [row for row in rows if row["num_outliers"] == "0"]
    assert empty
    assert all(row["auc"] == "" for row in empty)


def test_the_studys_protocol_squashes_and_labels_after_the_last_layer_norm(
    tmp_path, monkeypatch, checkpoints, pictures, capsys
):
    status = call(
        monkeypatch,
        *("similarity", "--checkpoint", checkpoints["plain"], "--data", pictures, "--bootstrap"),
        *(100, "--out", tmp_path / "out", "--num-images", 12, "--protocol", "study"),
    )
    assert status == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["models"][0]["labels"] == "normed"
    assert results["models"][0]["preprocess"]["resize"] == "squash"
    assert results["models"][0]["preprocess"]["interpolation"] == "bilinear"
    assert "AUC" in capsys.readouterr().out


def test_a_single_image_gives_numbers_without_intervals(
    tmp_path, monkeypatch, checkpoints, pictures
):
    status = call(
        monkeypatch,
        *("similarity", "--checkpoint", checkpoints["plain"], "--data", pictures),
        *("--out", tmp_path / "out", "--num-images", 1, "--bootstrap", 100),
    )
    assert status == 0
    model = json.loads((tmp_path / "out" / "results.json").read_text())["models"][0]
    entry = row_of(model, "labels", "quantile_98")
    assert entry["num_outliers"]["value"] == 2
    assert entry["auc"]["interval"] is None
