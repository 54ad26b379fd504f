"""Does a checkpoint directory give back exactly what was saved, or say what is wrong?"""

import dataclasses
import json

import jax
import numpy as np
import pytest

from regvit_jax import DeiT3, InputError, ViTConfig, load, save
from regvit_jax.checkpoint import CheckpointInfo, flatten, read_info, resolve
from regvit_jax.model import init_params
from regvit_jax.preprocess import Preprocess

CONFIG = ViTConfig(
    embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=32, num_registers=4, num_classes=5
)
INFO = CheckpointInfo(
    model=CONFIG,
    source={"file": "weights.pth", "sha256": "0" * 64},
    class_names=("a", "b", "c", "d", "e"),
    preprocess=Preprocess.square(32),
    metrics={"top1": {"value": 0.5, "n": 10}},
)


@pytest.fixture(scope="module")
def params():
    return init_params(DeiT3(CONFIG), jax.random.key(0))


@pytest.fixture
def checkpoint(tmp_path, params):
    save(tmp_path / "model", params, INFO)
    return tmp_path / "model"


def test_a_checkpoint_gives_back_the_model_and_every_bit_of_its_weights(checkpoint, params):
    model, loaded = load(checkpoint)
    assert model.config == CONFIG
    assert read_info(checkpoint) == INFO
    saved, loaded = flatten(params), flatten(loaded)
    assert saved.keys() == loaded.keys()
    for name, leaf in loaded.items():
        assert isinstance(leaf, np.ndarray)
        np.testing.assert_array_equal(leaf, saved[name])


def test_a_training_run_stands_for_its_newest_checkpoint(checkpoint):
    assert resolve(checkpoint.parent) == checkpoint
    assert load(checkpoint.parent)[0].config == CONFIG


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_hugging_face_is_met_with_the_command_that_converts_it(tmp_path, name):
    folder = tmp_path / "dinov2 small"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "dinov2"}')
    (folder / name).write_bytes(b"weights")
    with pytest.raises(InputError) as error:
        load(folder)
    assert f"`regvit-convert import '{folder}' '{folder}-regvit'`" in str(error.value)


def test_a_folder_of_pytorch_files_is_met_with_the_command_that_converts_one(tmp_path):
    (tmp_path / "checkpoint_799.pth").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"import \S+checkpoint_799.pth \S+checkpoint_799-regvit`"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"import \S+checkpoint_799.pth \S+checkpoint_799-regvit`"):
        load(tmp_path / "checkpoint_799.pth")


def test_an_existing_checkpoint_is_kept_unless_overwriting_is_asked_for(checkpoint, params):
    with pytest.raises(InputError, match="exists already"):
        save(checkpoint, params, INFO)
    changed = jax.tree.map(lambda x: x + 1, params)
    save(checkpoint, changed, INFO, overwrite=True)
    np.testing.assert_array_equal(load(checkpoint)[1]["norm"]["scale"], 2.0)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model"]


def test_weights_that_do_not_fit_are_all_named_and_nothing_is_written(tmp_path, params):
    wrong = {name: value for name, value in params.items() if name != "cls_token"}
    wrong |= {"surprise": np.zeros(3), "reg_tokens": np.zeros((1, 2, 24), np.float32)}
    wrong["pos_embed"] = np.asarray(params["pos_embed"], np.float16)
    with pytest.raises(InputError) as error:
        save(tmp_path / "model", wrong, INFO)
    for part in (
        "missing cls_token (1, 1, 24)",
        "unknown surprise (3,)",
        "reg_tokens has shape (1, 2, 24), expected (1, 4, 24)",
        "pos_embed is float16, expected float32",
    ):
        assert part in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_configuration_of_another_model_is_refused(checkpoint):
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    values["model"]["num_registers"] = 2
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"reg_tokens has shape \(1, 4, 24\), expected \(1, 2, 24"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "config.json is not JSON"),
        ("[]", "config.json is a list of 0, expected an object"),
        ("{}", "has format None; this version reads 1"),
        ('{"format": 7}', "has format 7; this version reads 1"),
        ('{"format": 1}', "lacks .*'model', 'source'"),
        ('{"format": 1, "format": 1}', "the name 'format' is given twice"),
        ('{"format": ' + "9" * 5000 + "}", "config.json is not JSON"),
        ("[" * 100_000, "config.json is not JSON"),
    ],
)
def test_a_damaged_configuration_is_named(checkpoint, content, message):
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load(checkpoint)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("model", "num_regs"), 4, "unknown fields 'num_regs'"),
        (("model", "depth"), "12", "depth is '12', expected a whole number"),
        (("model", "depth"), True, "depth is True, expected a whole number"),
        (("model", "depth"), 10**9, "depth must be at most 1024"),
        (("model", "embed_dim"), 10**30, "embed_dim must be at most"),
        (("model", "mlp"), "relu", "mlp is 'relu', expected one of 'gelu'"),
        (("model", "mlp_ratio"), float("nan"), "mlp_ratio is nan, expected a finite number"),
        (("model",), [1], "model is a list of 1, expected an object"),
        (("source",), None, "source is null, expected an object"),
        (("class_names",), "cat", "class_names is 'cat', expected a list"),
        (("class_names",), ["cat", 3], r"class_names\[1\] is 3, expected a text"),
        (("preprocess", "mean"), [0.5], "mean has 1 values, expected 3"),
        (("preprocess", "std"), [1, 1, "x"], r"std\[2\] is 'x', expected a number"),
        (("preprocess", "resize"), "fill", "resize is 'fill', expected one of 'crop'"),
        (("metrics",), 0.5, "metrics is 0.5, expected an object"),
    ],
)
def test_a_value_of_another_kind_is_named_with_its_field(checkpoint, place, value, message):
    path = checkpoint / "config.json"
    values = json.loads(path.read_text())
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(values))
    with pytest.raises(InputError, match=message):
        load(checkpoint)


def test_truncated_weights_are_named(checkpoint):
    for path in sorted((checkpoint / "params").rglob("*")):
        if path.is_file() and path.name[0].isdigit():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="damaged or cut short"):
        load(checkpoint)


def test_a_flipped_bit_of_the_weights_is_noticed(checkpoint):
    path = checkpoint / "params" / "blocks_0.norm1.scale" / "0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"\(blocks_0\.norm1\.scale/0\)"):
        load(checkpoint)


def test_missing_weights_are_named(checkpoint):
    (checkpoint / "params").rename(checkpoint / "elsewhere")
    with pytest.raises(InputError, match="damaged or cut short"):
        load(checkpoint)


def test_a_pytorch_file_is_answered_with_the_command_that_converts_it(tmp_path):
    path = tmp_path / "deit_3_small_224_1k.pth"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"regvit-convert import .*deit_3_small_224_1k\.pth "):
        load(path)


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=name):
        load(tmp_path / name)


def test_a_failed_save_leaves_the_earlier_checkpoint_whole(checkpoint, params, monkeypatch):
    """A disk that is full while the configuration is written."""

    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    before = flatten(load(checkpoint)[1])
    monkeypatch.setattr("regvit_jax.checkpoint._to_json", fail)
    with pytest.raises(OSError, match="No space left"):
        save(checkpoint, params, dataclasses.replace(INFO, metrics={}), overwrite=True)
    monkeypatch.undo()
    assert read_info(checkpoint) == INFO
    after = flatten(load(checkpoint)[1])
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["model"]


def test_a_missing_right_is_no_damage(checkpoint, monkeypatch):
    """An error of the system is raised as it is: the same files may be whole."""
    from pathlib import Path

    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(PermissionError):
        load(checkpoint)


def test_a_full_disk_leaves_nothing_behind(tmp_path):
    """On a file system of 600 kB, in a process of its own."""
    import subprocess
    import sys

    room = tmp_path / "room"
    room.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(room)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    program = (
        "import sys, jax\n"
        "from regvit_jax import save, DeiT3, ViTConfig\n"
        "from regvit_jax.checkpoint import CheckpointInfo\n"
        "from regvit_jax.console import run\n"
        "from regvit_jax.model import init_params\n"
        "config = ViTConfig(embed_dim=96, depth=4, num_heads=3, num_classes=5)\n"
        "params = init_params(DeiT3(config), jax.random.key(0))\n"
        "run(lambda: save(sys.argv[1] + '/c', params, CheckpointInfo(config)))\n"
    )
    try:
        command = [sys.executable, "-c", program, str(room)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert list(room.iterdir()) == []
    finally:
        subprocess.run(["umount", str(room)], check=True)


def test_a_folder_that_is_no_checkpoint_is_never_replaced(tmp_path, params):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(InputError, match="exists already"):
        save(tmp_path, params, INFO, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "three years"


def test_a_link_in_a_ring_is_no_checkpoint(tmp_path):
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises((InputError, OSError)):
        read_info(tmp_path / "ring")


def test_a_checkpoint_of_earlier_versions_without_checksums_opens(checkpoint):
    (checkpoint / "checksums.json").unlink()
    assert load(str(checkpoint))[0].config == CONFIG


def test_a_folder_of_runs_is_answered_with_the_runs_in_it(tmp_path, params):
    for name in ("reg0", "reg4"):
        save(tmp_path / name / "model", params, INFO)
    (tmp_path / "norms").mkdir()
    with pytest.raises(InputError) as refused:
        resolve(tmp_path)
    assert str(refused.value).endswith(f"Did you mean {tmp_path / 'reg0'} or {tmp_path / 'reg4'}?")
