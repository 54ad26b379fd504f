"""Do the commands work from end to end, and end clearly on bad input?"""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from regvit_jax.analysis.engine.results import RESULTS_FILE
from tests.analysis.conftest import call

COMMAND = [sys.executable, "-m", "analysis"]


def results_of(folder: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} in results.json")

    return json.loads((folder / RESULTS_FILE).read_text(), parse_constant=refuse)


def rows_of(path: Path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def check_files(folder: Path, results: dict) -> None:
    names = [f[kind] for f in results["figures"] for kind in ("file", "vector")]
    names += [table["file"] for table in results["tables"]]
    assert names
    for name in names:
        assert (folder / name).stat().st_size > 100
    present = {path.name for path in folder.iterdir()}
    assert present == {*results["files"], RESULTS_FILE}
    assert set(names) <= present


@pytest.fixture(scope="module")
def norms_folder(tmp_path_factory, checkpoints, pictures):
    out = tmp_path_factory.mktemp("analysed") / "norms"
    with pytest.MonkeyPatch.context() as patch:
        status = call(
            patch,
            *("norms", "--checkpoint", checkpoints["planted"]),
            *("--checkpoint", checkpoints["registers"]),
            *("--data", pictures, "--out", out, "--num-images", 170, "--bootstrap", 200),
        )
    assert status == 0
    return out


@pytest.fixture(scope="module")
def attention_folder(tmp_path_factory, checkpoints, pictures):
    out = tmp_path_factory.mktemp("analysed") / "attention"
    with pytest.MonkeyPatch.context() as patch:
        status = call(
            patch,
            *("attention", "--checkpoint", checkpoints["plain"], checkpoints["registers"]),
            *("--data", pictures, "--out", out, "--num-images", 20, "--num-shown", 2),
            *("--bootstrap", 200),
        )
    assert status == 0
    return out


def test_planted_outliers_are_found_and_absent_ones_are_not(norms_folder):
    results = results_of(norms_folder)
    check_files(norms_folder, results)
    answers = {m["label"]: m["verdict"]["answer"] for m in results["models"]}
    assert answers.pop("planted") == "found"
    assert set(answers) == {"registers", "planted untrained", "registers untrained"}
    # 170 images of 64 patches hold 5 patches at the smallest share that the rule looks for.
    assert set(answers.values()) <= {"not found", "cannot tell"}
    planted = results["models"][0]
    by_layer = [verdict["answer"] for verdict in planted["verdict_by_layer"]]
    assert by_layer[2:] == ["found", "found"]
    assert "found" not in by_layer[:2]
    assert planted["emergence"][1] < 0.05 < 0.95 < planted["emergence"][2]


def test_norm_results_say_what_they_rest_on(norms_folder, pictures):
    results = results_of(norms_folder)
    assert results["analysis"] == "norms"
    assert results["data"] == {
        "name": str(pictures),
        "split": "val",
        "num_images": 170,
        "skipped": [],
    }
    assert results["configuration"]["seed"] == 0
    assert results["versions"].keys() >= {"jax", "numpy"}
    model = results["models"][0]
    assert model["source"] == {"kind": "test"}
    assert model["num_registers"] == 0
    share = model["numbers"]["outliers/last/3_x_median/share"]
    assert share["n"] == 170
    assert 0 < share["interval"][0] < share["value"] < share["interval"][1] < 0.1
    keys = [key.split("/") for key in results["models"][1]["numbers"]]
    assert {key[2] for key in keys if key[0] == "norms_by_layer"} == {
        "cls",
        "patches",
        *(f"register_{i}" for i in range(4)),
    }


def test_norm_tables_hold_the_numbers_of_the_results(norms_folder):
    results = results_of(norms_folder)
    layers = rows_of(norms_folder / "norms_by_layer.csv")
    keys = [key for model in results["models"] for key in model["numbers"]]
    means = [key for key in keys if key.startswith("norms_by_layer/") and key.endswith("/mean")]
    assert len(layers) == len(means)
    first = results["models"][0]["numbers"]["norms_by_layer/0/cls/median"]
    assert float(layers[0]["median"]) == pytest.approx(first["value"], rel=1e-6)
    comparisons = rows_of(norms_folder / "comparisons.csv")
    pair = next(row for row in comparisons if row["to"] == "registers")
    assert pair["from"] == "planted"
    assert float(pair["difference_high"]) < 0


def test_attention_results_are_complete(attention_folder):
    results = results_of(attention_folder)
    check_files(attention_folder, results)
    plain, registers = results["models"]
    assert plain["queries"] == ["CLS"]
    assert registers["queries"][1:] == [f"register {i}" for i in range(4)]
    numbers = registers["numbers"]
    assert 0 < numbers["attention_last_block/CLS/mass_registers"]["value"] < 1
    assert -1 <= numbers["registers/centred_cosine"]["value"] <= 1
    assert "registers/centred_cosine" not in plain["numbers"]
    key = "attention_on_outliers/quantile_98/share_of_patch_mass"
    parts = [m["numbers"][key]["value"] for m in (plain, registers)]
    part = results["comparisons"][0]["differences"][key]
    assert part["value"] == pytest.approx(parts[1] - parts[0], abs=1e-12)
    assert part["interval"][0] <= part["value"] <= part["interval"][1]
    arrays = np.load(attention_folder / registers["arrays"])
    assert arrays["maps"].shape == (2, 3, 5, 8, 8)
    np.testing.assert_allclose(arrays["average_map"], registers["average_map"], rtol=0, atol=1e-12)


def test_a_chosen_layer_and_image_are_drawn(monkeypatch, tmp_path, checkpoints, pictures):
    status = call(
        monkeypatch,
        *("attention", "--checkpoint", checkpoints["plain"], "--data", pictures / "ant"),
        *("--out", tmp_path / "out", "--layer", 0, "--heads", "mean", "--num-images", 0),
        *("--show", "picture_006", "--bootstrap", 100, "--protocol", "study"),
        *("--image-size", 24),
    )
    assert status == 0
    arrays = np.load(tmp_path / "out" / "attention_maps_plain.npz")
    assert arrays["maps"].shape == (1, 3, 1, 6, 6)
    assert arrays["file_names"].tolist() == ["picture_006.png"]
    assert arrays["block"] == 0
    results = results_of(tmp_path / "out")
    assert results["models"][0]["preprocess"]["mean"] == [0.5, 0.5, 0.5]
    assert not any("heads" in figure["file"] for figure in results["figures"])


def test_the_same_call_gives_the_same_bytes_and_another_one_is_refused(
    monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    arguments = (
        *("norms", "--checkpoint", checkpoints["plain"], "--data", pictures),
        *("--out", tmp_path / "out", "--num-images", 12, "--no-twin", "--bootstrap", 100),
        *("--num-shown", 1),
    )
    assert call(monkeypatch, *arguments) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert call(monkeypatch, *arguments) == 0
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert call(monkeypatch, *arguments, "--seed", 1) == 2
    assert "seed: 0 there, 1 now" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert call(monkeypatch, *arguments, "--seed", 1, "--overwrite") == 0
    assert results_of(tmp_path / "out")["configuration"]["seed"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def damaged(tmp_path, pictures):
    folder = tmp_path / "damaged"
    folder.mkdir()
    for i, file in enumerate(sorted(pictures.rglob("*.png"))[:6]):
        shutil.copy(file, folder / f"{i}.png")
    whole = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(whole[: len(whole) // 2])
    return folder


def test_a_damaged_image_is_named_and_skipped_only_on_request(
    monkeypatch, tmp_path, checkpoints, damaged, capsys
):
    arguments = (
        *("norms", "--checkpoint", checkpoints["plain"], "--data", damaged),
        *("--out", tmp_path / "out", "--no-twin", "--bootstrap", 100),
    )
    assert call(monkeypatch, *arguments) == 2
    error = capsys.readouterr().err
    assert "3.png" in error
    assert "--skip-unreadable" in error
    assert not (tmp_path / "out").exists()
    assert call(monkeypatch, *arguments, "--skip-unreadable") == 0
    data = results_of(tmp_path / "out")["data"]
    assert data["num_images"] == 5
    assert len(data["skipped"]) == 1
    assert "3.png" in data["skipped"][0]


@pytest.mark.parametrize("question", ["norms", "attention"])
def test_images_that_are_all_unreadable_end_with_a_message(
    question, monkeypatch, tmp_path, checkpoints, capsys
):
    folder = tmp_path / "bad"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no picture")
    status = call(
        monkeypatch,
        *(question, "--checkpoint", checkpoints["plain"], "--data", folder),
        *("--out", tmp_path / "out", "--skip-unreadable"),
    )
    assert status == 2
    assert "can be read" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


def bad_calls(checkpoints, pictures, folder):
    """Arguments that are wrong, and what the message has to say."""
    (folder / "empty").mkdir()
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    good = {
        "--checkpoint": checkpoints["plain"],
        "--data": pictures,
        "--out": folder / "out",
        "--num-images": 8,
    }
    return {
        "missing checkpoint": ("norms", good | {"--checkpoint": folder / "no"}, "no checkpoint"),
        "no checkpoint": ("norms", good | {"--checkpoint": pictures}, "not a checkpoint"),
        "empty folder": ("norms", good | {"--data": folder / "empty"}, "no images"),
        "missing folder": ("attention", good | {"--data": folder / "no"}, "no folder"),
        "wrong layer": ("attention", good | {"--layer": 3}, "depth 3"),
        "wrong size": ("norms", good | {"--image-size": 30}, "patches of 4"),
        "foreign files": ("norms", good | {"--out": folder / "notes"}, "no results"),
        "unknown image": ("norms", good | {"--show": "zebra"}, "zebra"),
        "batch": ("norms", good | {"--batch-size": 0}, "batch-size"),
    }


@pytest.mark.parametrize(
    "case",
    [
        *("missing checkpoint", "no checkpoint", "empty folder", "missing folder"),
        *("wrong layer", "wrong size", "foreign files", "unknown image", "batch"),
    ],
)
def test_bad_input_ends_with_status_2_and_a_message(
    case, monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    question, options, message = bad_calls(checkpoints, pictures, tmp_path)[case]
    arguments = [part for name, value in options.items() for part in (name, value)]
    assert call(monkeypatch, question, *arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*partial*"))


def test_the_same_checkpoint_twice_is_refused(monkeypatch, tmp_path, checkpoints, pictures, capsys):
    plain = checkpoints["plain"]
    status = call(
        monkeypatch,
        *("norms", "--checkpoint", plain, plain, "--data", pictures, "--out", tmp_path / "out"),
    )
    assert status == 2
    assert "twice" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["norms", "--help"], ["attention", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    code = (
        f"import sys; sys.argv = ['regvit-analyze', *{arguments!r}]\n"
        "from regvit_jax.analysis.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'jax', 'flax', 'torch', 'matplotlib', 'orbax', 'scipy', 'numpy'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & sys.modules.keys())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "usage: regvit-analyze" in done.stdout


def test_the_command_runs_as_a_module():
    start = time.monotonic()
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    assert "norms" in done.stdout
    # Measured 0.5 s on two busy cores; the limit of the issue, 0.7 s, is for an idle machine.
    assert time.monotonic() - start < 5
