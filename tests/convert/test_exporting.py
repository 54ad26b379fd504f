import dataclasses
import typing

import numpy as np
import pytest

from regvit_jax import InputError, ViTConfig, load
from regvit_jax.checkpoint import CheckpointInfo, flatten, save, unflatten
from regvit_jax.convert import pth_writing, safetensors
from regvit_jax.convert.dialects import DIALECTS, ExportFamily
from regvit_jax.convert.exporting import check_place, export_checkpoint, to_theirs
from regvit_jax.convert.importing import to_ours
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.rules import our_shapes
from regvit_jax.convert.weights import read_weights

FAMILIES = ["deit", "timm", "dinov2", "hf"]
EXPORTED = list(typing.get_args(ExportFamily))
NO_KEY_BIAS = ("dinov3", "timm-dinov3", "timm-rope", "hf-dinov3")


def random_config(generator, family, as_family_has_it):
    """A small configuration that a family can hold."""
    heads, patch_size = int(generator.integers(1, 4)), int(generator.integers(1, 5)) * 2
    is_gated = generator.random() < 0.5
    config = ViTConfig(
        embed_dim=8 * heads,
        depth=int(generator.integers(1, 4)),
        num_heads=heads,
        patch_size=patch_size,
        image_size=patch_size * int(generator.integers(1, 5)),
        num_registers=int(generator.integers(0, 4)),
        num_classes=int(generator.integers(1, 9)) * int(generator.integers(0, 2)),
        mlp="swiglu" if is_gated else "gelu",
        mlp_ratio=2.0 if family == "hf" and heads == 3 and not is_gated else 3.0,
        layer_scale=bool(generator.random() < 0.7),
        num_channels=3 if "hf" in family else int(generator.integers(1, 5)),
    )
    return as_family_has_it(config, family)


def random_params(generator, config, family):
    """Parameters with every kind of float32: tiny, negative zero, huge."""
    params = {}
    for name, shape in our_shapes(config).items():
        scale = 10.0 ** generator.integers(-40, 38, size=shape)
        with np.errstate(over="ignore"):
            values = (generator.normal(size=shape) * scale).astype(np.float32)
        if name.endswith("qkv/bias") and family in NO_KEY_BIAS:
            np.split(values, 3)[1][:] = 0
        values.flat[0] = -0.0
        params[name] = np.where(np.isfinite(values), values, np.float32(1e-45))
    return params


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
@pytest.mark.parametrize("family", EXPORTED)
@pytest.mark.parametrize("seed", range(4))
def test_what_is_exported_imports_bit_for_bit(
    family, file_format, seed, tmp_path, as_family_has_it
):
    generator = np.random.default_rng([seed, EXPORTED.index(family)])
    config = random_config(generator, family, as_family_has_it)
    assert not DIALECTS[family].cannot_hold(config)
    params = random_params(generator, config, family)
    with (tmp_path / "file").open("wb") as file:
        tensors = to_theirs(params, DIALECTS[family], config)
        writer = {"pth": pth_writing.write, "safetensors": safetensors.write}[file_format]
        writer(file, tensors, None if file_format == "pth" else {})
    weights = read_weights(tmp_path / "file")
    match = recognise(weights.tensors, family, {"num_heads": config.num_heads})
    match.check("file")
    assert match.config == config
    back = to_ours(weights.tensors, match.dialect, match.config, "file")
    assert back.keys() == params.keys()
    for name, values in params.items():
        assert np.ascontiguousarray(back[name]).tobytes() == values.tobytes(), name


@pytest.fixture(scope="module")
def tiny_directory(tmp_path_factory):
    """A checkpoint directory of a tiny model with 4 registers."""
    config = ViTConfig(
        embed_dim=24,
        depth=2,
        num_heads=3,
        patch_size=8,
        image_size=32,
        num_registers=4,
        num_classes=5,
    )
    generator = np.random.default_rng(0)
    params = {
        name: (0.3 * generator.normal(size=shape)).astype(np.float32)
        for name, shape in our_shapes(config).items()
    }
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save(directory, unflatten(params), CheckpointInfo(config))
    return directory


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_commands_give_the_checkpoint_back(
    convert, tiny_directory, tmp_path, family, file_format
):
    head = [] if family in ("deit", "timm") else ["--drop-head"]
    arguments = ["--family", family, "--format", file_format, *head]
    printed = convert("export", tiny_directory, tmp_path / "file", *arguments)
    assert "4 registers" in printed
    convert("import", tmp_path / "file", tmp_path / "back", "--num-heads", 3)
    (model, params), (again, params_again) = load(tiny_directory), load(tmp_path / "back")
    changed = {"num_classes": 0} if head else {}
    assert again.config == dataclasses.replace(model.config, **changed)
    expected = {k: v for k, v in flatten(params).items() if not (head and k.startswith("head/"))}
    found = flatten(params_again)
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_torch_reads_what_we_write(torch, tiny_directory, tmp_path):
    export_checkpoint(tiny_directory, tmp_path / "a.pth", "deit")
    for options in ({"weights_only": True}, {"weights_only": True, "mmap": True}):
        state = torch.load(tmp_path / "a.pth", **options)["model"]
        params = flatten(load(tiny_directory)[1])
        found = state["blocks.1.attn.qkv.weight"].numpy()
        np.testing.assert_array_equal(found, params["blocks_1/attn/qkv/kernel"].T)
        assert state["cls_token"].dtype == torch.float32


def test_the_safetensors_library_reads_what_we_write(tiny_directory, tmp_path):
    library = pytest.importorskip("safetensors.numpy")
    export_checkpoint(tiny_directory, tmp_path / "a.safetensors", "timm", "safetensors")
    found = library.load_file(tmp_path / "a.safetensors")
    params = flatten(load(tiny_directory)[1])
    np.testing.assert_array_equal(found["reg_token"], params["reg_tokens"])


def test_timm_loads_an_export_strictly_and_agrees(
    torch, tiny_vit, images, tiny_directory, tmp_path
):
    import jax

    export_checkpoint(tiny_directory, tmp_path / "a.pth", "timm")
    reference = tiny_vit(4)
    reference.load_state_dict(torch.load(tmp_path / "a.pth"), strict=True)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    model, params = load(tiny_directory)
    found = jax.jit(model.apply)({"params": params}, jax.numpy.asarray(images))
    # float32 differs by up to 4e-6 on logits with a spread of 1.6.
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("file_format", ["pth", "safetensors"])
def test_transformers_loads_an_export_strictly_and_agrees(
    torch, timm, images, tiny_directory, tmp_path, file_format
):
    import jax

    transformers = pytest.importorskip("transformers", reason="needs transformers")
    export_checkpoint(tiny_directory, tmp_path / "folder", "hf", file_format, drop_head=True)
    reference, report = transformers.AutoModel.from_pretrained(
        tmp_path / "folder", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        expected = reference.eval()(pixels).last_hidden_state.numpy()
    model, params = load(tiny_directory)
    trace = jax.jit(lambda params, x: model.apply({"params": params}, x, (), method="trace"))
    found = trace(params, jax.numpy.asarray(images)).normed
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-5)


def test_a_family_without_a_place_for_a_part_is_refused(refused, tiny_directory, tmp_path):
    message = refused("export", tiny_directory, tmp_path / "a.pth", "--family", "dinov2")
    assert "no place for a head that reads CLS. Leave the head out with --drop-head." in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "family", "part"),
    [
        ({"num_classes": 0}, "deit", "models without a head"),
        ({"layer_scale": False}, "deit", "models without LayerScale"),
        ({"mlp": "swiglu"}, "deit", "SwiGLU"),
        ({"mlp": "gelu_tanh"}, "timm", "the gelu_tanh MLP"),
        ({"layer_norm_epsilon": 1e-12}, "timm", "the LayerNorm epsilon 1e-12"),
        ({"num_classes": 0, "mlp_ratio": 2.5}, "hf", "an MLP 2.5 x as wide"),
    ],
)
def test_what_a_family_cannot_hold_is_named(tmp_path, changes, family, part):
    with pytest.raises(InputError, match=f"no place for {part}"):
        check_place(tmp_path, ViTConfig(**changes), family)


def test_an_existing_file_is_left_alone(refused, tiny_directory, tmp_path):
    (tmp_path / "a.pth").write_text("precious")
    message = refused("export", tiny_directory, tmp_path / "a.pth", "--family", "timm")
    assert "exists already" in message
    assert (tmp_path / "a.pth").read_text() == "precious"


def test_an_export_that_fails_leaves_nothing_behind(tiny_directory, tmp_path, monkeypatch):
    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pth_writing, "write", full_disk)
    with pytest.raises(OSError, match="No space left"):
        export_checkpoint(tiny_directory, tmp_path / "out" / "a.pth", "timm")
    assert not list((tmp_path / "out").iterdir())
