import json
import shutil

import numpy as np
import pytest

from regvit_jax import ViTConfig
from regvit_jax.checkpoint import CheckpointInfo, save, unflatten
from regvit_jax.convert import references, verification
from regvit_jax.convert.exporting import export_checkpoint
from regvit_jax.convert.importing import import_checkpoint
from regvit_jax.convert.rules import our_shapes
from regvit_jax.convert.verification import verify


@pytest.fixture(scope="module")
def imported(study_file, timm, tmp_path_factory):
    """The study's tiny checkpoint, imported."""
    directory = tmp_path_factory.mktemp("verify") / "out"
    import_checkpoint(study_file, directory, num_heads=3)
    return directory


@pytest.fixture
def changed(imported, tmp_path):
    """A copy of the imported directory with another value in its configuration."""

    def change(name, value):
        shutil.copytree(imported, tmp_path / "changed")
        path = tmp_path / "changed" / "config.json"
        config = json.loads(path.read_text())
        config["model"][name] = value
        path.write_text(json.dumps(config))
        return tmp_path / "changed"

    return change


def test_both_networks_are_run_and_the_table_is_kept(convert, imported, study_file):
    printed = convert("verify", imported, "--against", study_file)
    assert "Ran both networks in float32, on 4 photographs of scikit-image" in printed
    kept = json.loads((imported / "config.json").read_text())["metrics"]["verification"]
    assert kept["passed"] is True
    names = [row["tensor"] for row in kept["rows"]]
    assert {"parameters", "logits", "attention of block 1", "tokens after block 1"} <= set(names)
    assert all(name in printed for name in names)
    json.loads(convert("inspect", imported, "--json"))  # the directory still opens


def test_photographs_are_used_where_given(imported, study_file, photographs):
    result = verify(imported, study_file, photographs)
    assert result.passed
    assert f"on 4 images of {photographs}" in result.method


@pytest.mark.parametrize(("name", "value"), [("mlp", "gelu_tanh"), ("layer_norm_epsilon", 1e-5)])
def test_a_network_that_computes_something_else_is_found_out(
    convert, changed, study_file, name, value
):
    with pytest.raises(SystemExit) as ended:
        convert("verify", changed(name, value), "--against", study_file)
    assert ended.value.code == 1


def test_another_file_is_refused(refused, imported, study_file, torch, tmp_path):
    torch.save(torch.load(study_file, weights_only=False)["model"], tmp_path / "other.pth")
    message = refused("verify", imported, "--against", tmp_path / "other.pth")
    assert "was not imported from this file: it records the SHA-256" in message


def test_without_torch_only_the_weights_are_compared_and_it_says_so(
    imported, study_file, monkeypatch
):
    def missing(*_):
        raise ImportError("No module named 'torch'", name="torch")

    monkeypatch.setattr(verification, "build_reference", missing)
    result = verify(imported, study_file)
    assert [row.tensor for row in result.rows] == ["parameters"]
    assert "the network was not run, because torch is not installed" in result.method


@pytest.mark.parametrize("family", ["hf", "hf-vit"])
def test_folders_of_transformers_are_verified(torch, timm, tmp_path, family):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    sizes |= {"image_size": 32, "patch_size": 8}
    if family == "hf":
        model = transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**sizes)
        )
    else:
        model = transformers.ViTForImageClassification(transformers.ViTConfig(**sizes))
    model.save_pretrained(tmp_path / "folder")
    assert import_checkpoint(tmp_path / "folder", tmp_path / "out").family == family
    result = verify(tmp_path / "out", tmp_path / "folder")
    assert result.passed
    assert len(result.rows) > 5


FAR = {"embed_dim": 24, "depth": 1, "num_heads": 3, "patch_size": 8, "image_size": 32}
FAR |= {"num_registers": 4, "num_classes": 5}


@pytest.mark.parametrize(
    "family",
    [
        *("timm-gap", "timm-rope", "timm-dinov3", "timm-clip", "dinov2", "dinov3", "deit1"),
        *("clip", "torchvision", "tips", "hf", "hf-dinov3", "hf-clip"),
    ],
)
def test_every_familys_own_code_takes_what_we_export_and_agrees(
    torch, timm, tmp_path, family, as_family_has_it
):
    """Weights far from their start values go through export, import and `verify`."""
    config = as_family_has_it(ViTConfig(**FAR), family)
    generator = np.random.default_rng(0)
    params = {k: 0.3 * generator.normal(size=v) for k, v in our_shapes(config).items()}
    if "blocks_0/attn/qkv/bias" in params:
        np.split(params["blocks_0/attn/qkv/bias"], 3)[1][:] = 0
    arrays = unflatten({k: v.astype(np.float32) for k, v in params.items()})
    save(tmp_path / "first", arrays, CheckpointInfo(config))
    export_checkpoint(tmp_path / "first", tmp_path / "file", family)
    said = {"num_heads": 3, "activation": None if config.mlp == "gelu" else config.mlp}
    chosen = "tips" if family == "tips" else None
    imported = import_checkpoint(tmp_path / "file", tmp_path / "out", chosen, **said)
    assert imported.family == family
    result = verify(tmp_path / "out", tmp_path / "file")
    assert result.passed, result.rows
    assert "Ran both networks" in result.method
    assert len(result.rows) > 5


def test_values_that_are_no_numbers_pass_no_comparison():
    assert not verification.Row("logits", float("nan"), 1.0).passed


def test_families_without_a_library_have_no_reference(tmp_path):
    assert references.build_reference(tmp_path, "deit3-jax", ViTConfig(), {}) is None
