import hashlib
import json

import jax
import numpy as np
import pytest

from regvit_jax import load
from regvit_jax.checkpoint import flatten, read_info
from regvit_jax.convert.importing import import_checkpoint

# timm's and our float32 differ by at most 7e-7 here; at 224 px, 12 blocks deep, by 4e-6.
LOGITS_ATOL = 5e-5


def logits_of(torch, model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


@pytest.mark.parametrize("num_registers", [0, 4])
@pytest.mark.parametrize("layout", ["study", "timm"])
def test_imported_logits_are_those_of_timm(
    torch, tiny_vit, study_state, tmp_path, images, num_registers, layout
):
    model = tiny_vit(num_registers)
    state = study_state(num_registers) if layout == "study" else model.state_dict()
    torch.save({"model": state} if layout == "study" else state, tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "out", num_heads=3)
    ours, params = load(tmp_path / "out")
    found = jax.jit(ours.apply)({"params": params}, jax.numpy.asarray(images))
    np.testing.assert_allclose(found, logits_of(torch, model, images), rtol=0, atol=LOGITS_ATOL)


@pytest.mark.parametrize("num_registers", [0, 4])
def test_deit3_small_keeps_its_logits(torch, timm, tmp_path, num_registers):
    model = timm.create_model("deit3_small_patch16_224", reg_tokens=num_registers).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # LayerScale far from its start value 1e-6, which would hide every fault of a block.
            parameter += (0.3 if "gamma" in name else 0.02) * torch.randn(
                parameter.shape, generator=generator
            )
    state = {
        k.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): v
        for k, v in model.state_dict().items()
    }
    if num_registers:
        state["reg_tokens"] = state.pop("reg_token")
    torch.save({"model": state}, tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "out")
    ours, params = load(tmp_path / "out")
    assert ours.config.num_registers == num_registers
    images = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    found = jax.jit(ours.apply)({"params": params}, jax.numpy.asarray(images))
    np.testing.assert_allclose(found, logits_of(torch, model, images), rtol=0, atol=LOGITS_ATOL)


def test_the_directory_says_where_its_weights_come_from(study_file, tmp_path):
    import_checkpoint(study_file, tmp_path / "out", num_heads=3)
    source = read_info(tmp_path / "out").source
    assert source["file"] == "checkpoint_799.pth"
    assert source["sha256"] == hashlib.sha256(study_file.read_bytes()).hexdigest()
    assert (source["family"], source["epoch"], source["weights"]) == ("deit", 799, "model")
    json.loads((tmp_path / "out" / "config.json").read_text(), parse_constant=pytest.fail)


def test_a_file_cannot_forge_where_its_weights_come_from(torch, study_state, tmp_path):
    forged = {"model": study_state(), "sha256": "0" * 64, "family": "timm"}
    torch.save(forged, tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "out", num_heads=3)
    source = read_info(tmp_path / "out").source
    assert source["sha256"] == hashlib.sha256((tmp_path / "file.pth").read_bytes()).hexdigest()
    assert source["family"] == "deit"


def test_the_moving_average_can_be_imported_instead(study_file, tmp_path):
    import_checkpoint(study_file, tmp_path / "plain", num_heads=3)
    import_checkpoint(study_file, tmp_path / "ema", model_ema=True, num_heads=3)
    plain, average = (flatten(load(tmp_path / name)[1]) for name in ("plain", "ema"))
    for name in plain:
        np.testing.assert_array_equal(average[name], 2 * plain[name])
    assert read_info(tmp_path / "ema").source["weights"] == "model_ema"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floating_types_become_float32(torch, study_state, tmp_path, dtype):
    state = {name: tensor.to(getattr(torch, dtype)) for name, tensor in study_state().items()}
    torch.save({"model": state}, tmp_path / "file.pth")
    import_checkpoint(tmp_path / "file.pth", tmp_path / "out", num_heads=3)
    params = flatten(load(tmp_path / "out")[1])
    expected = state["blocks.0.attn.qkv.weight"].to(torch.float32).numpy().T
    np.testing.assert_array_equal(params["blocks_0/attn/qkv/kernel"], expected)
    assert {str(value.dtype) for value in params.values()} == {"float32"}
