"""Does `regvit-analyze reconstruction` work from end to end, and end clearly on bad input?"""

import json
import sys

import numpy as np
import pytest

from regvit_jax.analysis.engine.parts import open_parts
from regvit_jax.analysis.questions.reconstruction.options import ReconstructionOptions
from regvit_jax.analysis.questions.reconstruction.probe_files import load_probe, save_probe
from regvit_jax.analysis.questions.reconstruction.probes import apply_mlp, start_mlp
from regvit_jax.convert import cli as convert
from tests.analysis.conftest import call

torch = pytest.importorskip("torch", reason="the extra torch is not installed")

PROBE_FILES = ("pth", "npz")
# Two dense layers in float32, up to 0.5: measured 1.2e-7.
IMPORTED_ATOL = 1e-6
# The same numbers in float64, written and read: measured 0.
SAME_ATOL = 1e-12
POOLED_L2 = "reconstruction/quantile_98/all/linear/normalised/l2"


def results_of(folder) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} in results.json")

    return json.loads((folder / "results.json").read_text(), parse_constant=refuse)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, checkpoints, pictures):
    out = tmp_path_factory.mktemp("analysed") / "reconstruction"
    with pytest.MonkeyPatch.context() as patch:
        status = call(
            patch,
            *("reconstruction", "--checkpoint", checkpoints["planted"], checkpoints["registers"]),
            *("--data", pictures, "--out", out, "--num-train-images", 80, "--bootstrap", 100),
            *("--max-epochs", 3, "--patches-per-image", 16, "--num-shown", 2),
        )
    assert status == 0
    return out


def test_results_hold_both_groups_and_what_they_rest_on(folder):
    results = results_of(folder)
    assert results["analysis"] == "reconstruction"
    assert results["data"]["num_images"] == 40  # a fifth of 200 pictures without parts
    assert results["data"]["num_training_images"] == 80
    assert results["spaces"].keys() == {"normalised", "rgb"}
    planted, registers = results["models"]
    assert planted["layer"] == 2
    training = planted["training"]
    assert training["linear"]["num_tokens"] == 80 * 64
    assert training["mlp"]["patches_per_image"] == 16
    assert len(training["mlp"]["held_out_scores"]) == 3
    numbers = planted["numbers"]
    for group in ("all", "normal", "outlier"):
        l2 = numbers[f"reconstruction/quantile_98/{group}/linear/normalised/l2"]
        assert l2["n"] == 40
        assert l2["interval"][0] <= l2["value"] <= l2["interval"][1]
        assert 0 <= numbers[f"position/quantile_98/{group}/top1"]["value"] <= 1
    pooled = "reconstruction/quantile_98/all/linear"
    assert numbers[f"{pooled}/rgb/mse"]["value"] < numbers[f"{pooled}/normalised/mse"]["value"]
    over_patch, over_all = (
        numbers[f"{pooled}/normalised/r2_{name}_mean"]["value"] for name in ("patch", "global")
    )
    assert over_patch < over_all < 1
    matched = {key for key in numbers if key.startswith("matched/quantile_98/linear_l2/")}
    assert {key.split("/")[-1] for key in matched} == {"outlier", "normal", "ratio", "difference"}
    assert "contrast/quantile_98/linear/normalised/l2_ratio" in numbers
    assert planted["matching"]["quantile_98"]["num_outliers"] > 0
    empty = registers["numbers"]
    assert empty["labels/absolute_150/num_outliers"]["value"] == 0
    assert empty["labels/absolute_150/share"]["value"] == 0
    about = [key for key in empty if "absolute_150" in key and not key.startswith("labels/")]
    assert any("/all/" in key for key in about)
    assert not [key for key in about if "/outlier/" in key]
    assert not {key.split("/")[0] for key in about} & {"contrast", "position_contrast", "matched"}
    assert "absolute_150" not in registers["matching"]


def test_files_are_there_and_differences_are_paired(folder):
    results = results_of(folder)
    names = [f[kind] for f in results["figures"] for kind in ("file", "vector")]
    tables = [table["file"] for table in results["tables"]]
    kinds = ("reconstruction", "position", "contrast", "position_contrast", "matched", "labels")
    assert tables == [*(f"{kind}.csv" for kind in kinds), "comparisons.csv"]
    assert len(names) == 6
    names += tables
    for name in names:
        assert (folder / name).stat().st_size > 100
    assert {path.name for path in folder.iterdir()} == {*results["files"], "results.json"}
    (pair,) = results["comparisons"]
    first, second = (m["numbers"][POOLED_L2]["value"] for m in results["models"])
    found = pair["differences"][POOLED_L2]
    assert found["value"] == pytest.approx(second - first, abs=SAME_ATOL)
    probe, info = load_probe(folder / "mlp_probe_planted.npz")
    assert probe["fc1"]["kernel"].shape == (24, 96)
    assert info["layer"] == 2


def test_a_given_probe_takes_the_place_of_training(
    folder, tmp_path, monkeypatch, checkpoints, pictures
):
    arguments = (
        *("reconstruction", "--checkpoint", checkpoints["planted"], "--data", pictures),
        *("--num-train-images", 80, "--bootstrap", 100, "--max-epochs", 1, "--num-shown", 1),
        *("--out", tmp_path / "out", "--probe"),
    )
    assert call(monkeypatch, *arguments, folder / "mlp_probe_planted.npz") == 0
    before, after = (results_of(f)["models"][0]["numbers"] for f in (folder, tmp_path / "out"))
    for name in ("linear", "mlp"):
        key = f"reconstruction/quantile_98/all/{name}/normalised/mse"
        values = [x[key]["value"] for x in (before, after)]
        assert values[0] == pytest.approx(values[1], abs=SAME_ATOL)
    model = results_of(tmp_path / "out")["models"][0]
    assert model["training"]["mlp"]["info"]["layer"] == 2
    first, second = (np.load(f / "linear_probes_planted.npz") for f in (folder, tmp_path / "out"))
    with first, second:
        np.testing.assert_array_equal(first["pixels/kernel"], second["pixels/kernel"])


def test_a_probe_that_the_study_saved_can_be_imported_and_judged(
    tmp_path, monkeypatch, checkpoints, pictures
):
    layers = torch.nn.ModuleDict({"fc1": torch.nn.Linear(24, 12), "fc2": torch.nn.Linear(12, 48)})
    content = {"epoch": 9, "model_state_dict": layers.state_dict(), "checkpoint_type": "best"}
    torch.save({**content, "loss": 0.5, "val_loss": 0.6}, tmp_path / "probe.pth")
    import_argv = ["regvit-convert", "import", *(str(tmp_path / f"probe.{x}") for x in PROBE_FILES)]
    monkeypatch.setattr(sys, "argv", import_argv)
    convert.main()
    probe, _ = load_probe(tmp_path / "probe.npz")
    tokens = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    with torch.inference_mode():
        hidden = torch.nn.functional.gelu(layers["fc1"](torch.from_numpy(tokens)))
        expected = layers["fc2"](hidden).numpy()
    np.testing.assert_allclose(apply_mlp(probe, tokens), expected, rtol=0, atol=IMPORTED_ATOL)
    status = call(
        monkeypatch,
        *("reconstruction", "--checkpoint", checkpoints["planted"], "--data", pictures),
        *("--num-train-images", 80, "--bootstrap", 100, "--max-epochs", 1, "--num-shown", 1),
        *("--out", tmp_path / "out", "--probe", tmp_path / "probe.npz"),
    )
    assert status == 0
    (model,) = results_of(tmp_path / "out")["models"]
    assert model["training"]["mlp"]["info"]["checkpoint_type"] == "best"
    assert model["numbers"]["reconstruction/quantile_98/all/mlp/normalised/l2"]["value"] > 0


def test_the_studys_protocol_prints_the_notebooks_line(
    tmp_path, monkeypatch, checkpoints, pictures, capsys
):
    for split, names in (("train", "ant"), ("val", "bee")):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / names).symlink_to(pictures / names)
    status = call(
        monkeypatch,
        *("reconstruction", "--checkpoint", checkpoints["plain"], "--data", tmp_path / "data"),
        *("--out", tmp_path / "out", "--protocol", "study", "--max-epochs", 2),
    )
    assert status == 0
    printed = capsys.readouterr().out
    results = results_of(tmp_path / "out")
    (model,) = results["models"]
    study = {key.removeprefix("study/"): x["value"] for key, x in model["numbers"].items()}
    (line,) = model["remarks"]
    assert line in printed
    assert all(f"{study[name]:.4f}" in line for name in ("threshold", "high", "low"))
    assert f"{study['ratio_percent']:.2f} %" in line
    assert (study["num_images"], study["num_batches"]) == (64, 1)
    assert study["ratio_percent"] == pytest.approx(100 * study["high"] / study["low"])
    assert len(results["faults"]) == 8
    assert results["models"][0]["preprocess"]["short_side"] == 37  # 256 / 224 of 32
    assert load_probe(tmp_path / "out" / "study_probe_plain.npz")[0]["fc1"]["bias"].shape == (96,)


def test_parts_never_share_an_image(tmp_path, pictures):
    def parts(**changes):
        options = ReconstructionOptions(
            checkpoint=(tmp_path,), out=tmp_path, **({"data": str(pictures)} | changes)
        )
        return open_parts(options)

    training, judged, _ = parts(num_images=0, num_train_images=0)
    assert sorted([*training.indices, *judged.indices]) == list(range(200))
    assert len(judged.indices) == 40
    training, judged, _ = parts(num_images=7, num_train_images=30, seed=3)
    assert (len(training.indices), len(judged.indices)) == (30, 7)
    assert not set(training.indices) & set(judged.indices)
    training, judged, _ = parts(data="digits", num_images=5, num_train_images=9)
    assert training.source.name != judged.source.name


def test_bad_input_ends_with_status_2_and_a_message(
    tmp_path, monkeypatch, checkpoints, pictures, capsys
):
    save_probe(tmp_path / "other.npz", start_mlp(8, 16, 48, 0), {})
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.png").symlink_to(next(iter(sorted(pictures.rglob("*.png")))))
    cases = {
        "--split train": "training part",
        "--layer 3": "depth 3",
        "--max-epochs 0": "at least 1",
        "--patches-per-image -1": "0 (all) or more",
        "--protocol study --layer 1": "leave out --layer",
        "--protocol study --num-train-images 30": "full batches of 64",
        f"--probe {tmp_path / 'no.npz'}": "no probe",
        f"--probe {tmp_path / 'other.npz'}": "8 features",
        f"--data {tmp_path / 'one'}": "too few",
    }
    for options, message in cases.items():
        arguments = ["--data", pictures, *options.split()]
        if options.startswith("--data"):
            arguments = options.split()
        status = call(
            monkeypatch,
            *("reconstruction", "--checkpoint", checkpoints["plain"], *arguments),
            *("--out", tmp_path / "out"),
        )
        captured = capsys.readouterr()
        assert status == 2, options
        assert message in " ".join((captured.err + captured.out).split()), options
        assert "Traceback" not in captured.err
        assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*partial*"))
