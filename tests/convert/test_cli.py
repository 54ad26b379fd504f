import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import regvit_jax.convert.cli
from regvit_jax import VARIANTS
from regvit_jax.convert.inspection import num_parameters


def import_tiny(convert, source, directory):
    return convert("import", source, directory, "--num-heads", 3)


@pytest.fixture(scope="session")
def tiny_count(study_state):
    """Parameters of the tiny model, counted by torch."""
    return sum(tensor.numel() for tensor in study_state().values())


def test_import_says_what_it_wrote(convert, study_file, tiny_count, tmp_path):
    printed = import_tiny(convert, study_file, tmp_path / "out")
    model = f"custom, 4 registers, {tiny_count:,} parameters, 32 px"
    assert f"Wrote {tmp_path / 'out'}: {model}; from DeiT-III" in printed


def test_inspect_tells_the_same_of_the_file_and_of_the_directory(convert, study_file, tmp_path):
    import_tiny(convert, study_file, tmp_path / "out")
    of_file = json.loads(convert("inspect", study_file, "--json"))
    of_directory = json.loads(convert("inspect", tmp_path / "out", "--json"))
    assert of_file["kind"] == "PyTorch file"
    assert of_directory["kind"] == "checkpoint directory"
    same = ("variant", "num_parameters", "num_registers", "image_size", "patch_size", "depth")
    assert [of_file[name] for name in same] == [of_directory[name] for name in same]
    assert of_file["family"] == of_directory["source"]["family"] == "deit"
    assert of_file["num_heads"] is None  # not written in the file, and 24 is no published width
    assert of_file["saved_with_it"]["epoch"] == of_directory["source"]["epoch"] == 799


def test_inspect_knows_a_training_run(convert, study_file, tmp_path):
    import_tiny(convert, study_file, tmp_path / "run" / "model")
    report = json.loads(convert("inspect", tmp_path / "run", "--json"))
    assert report["kind"] == "training run"
    assert report["checkpoint"] == str(tmp_path / "run" / "model")


def test_inspect_knows_the_reconstruction_probe_of_the_study(convert, probe_file):
    report = json.loads(convert("inspect", probe_file, "--json"))
    assert "the study's reconstruction probe" in report["kind"]
    assert report["num_parameters"] == 24 * 12 + 12 + 12 * 192 + 192
    assert report["saved_with_it"]["checkpoint_type"] == "best"


def test_inspect_prints_a_table_to_read(convert, study_file, tiny_count):
    lines = convert("inspect", study_file).splitlines()
    facts = {line.split("  ")[0]: line.split("  ")[-1].strip() for line in lines}
    assert facts["num registers"] == "4"
    assert facts["num parameters"] == f"{tiny_count:,}"
    assert facts["num heads"] == "unknown"


@pytest.mark.parametrize(
    ("variant", "expected"),
    [("tiny", 5_721_832), ("small", 22_059_496), ("medium", 38_849_512), ("huge", 632_126_440)],
)
def test_parameters_are_counted_without_building_the_model(variant, expected):
    assert num_parameters(VARIANTS[variant]) == expected


def test_an_existing_directory_is_left_alone(refused, study_file, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    message = refused("import", study_file, tmp_path / "out", "--num-heads", 3)
    assert "exists already" in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_values_that_are_no_numbers_are_refused_by_name(refused, torch, study_state, tmp_path):
    state = study_state()
    state["norm.bias"][3] = float("nan")
    state["head.weight"][:2, 0] = float("inf")
    torch.save({"model": state}, tmp_path / "file.pth")
    message = refused("import", tmp_path / "file.pth", tmp_path / "out", "--num-heads", 3)
    assert "norm.bias: 1 of 24 values" in message
    assert "head.weight: 2 of 120 values" in message
    assert [path.name for path in tmp_path.iterdir()] == ["file.pth"]


def test_the_wrong_family_is_refused(refused, study_file, tmp_path):
    message = refused("import", study_file, tmp_path / "out", "--family", "timm")
    assert "unexpected tensor blocks.0.gamma_1 (24,)" in message
    assert "unexpected tensor reg_tokens (1, 4, 24)" in message


def test_heads_that_do_not_divide_the_width_are_refused(refused, study_file, tmp_path):
    message = refused("import", study_file, tmp_path / "out", "--num-heads", 7)
    assert "embed_dim 24 is not divisible by num_heads 7" in message


def test_a_file_of_weights_is_no_directory_and_the_error_says_what_to_run(study_file):
    from regvit_jax import InputError, load

    with pytest.raises(InputError, match=rf"regvit-convert import {study_file} "):
        load(study_file)


def test_the_installed_command_ends_with_status_2(tmp_path):
    (tmp_path / "empty.pth").touch()
    command = shutil.which("regvit-convert", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("regvit-convert is not installed")
    done = subprocess.run(
        [command, "inspect", tmp_path / "empty.pth"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "is empty" in done.stderr


def test_an_option_that_is_given_twice_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.argv", ["regvit-convert", "import", "a", "--prefix=x", "--prefix", "y"]
    )
    with pytest.raises(SystemExit) as ended:
        regvit_jax.convert.cli.main()
    assert ended.value.code == 2
    assert "--prefix is given twice" in capsys.readouterr().err
