"""Imported models compute what the family's own code computes; weights far from initial values."""

import jax
import numpy as np
import pytest

from regvit_jax import DeiT3
from regvit_jax.checkpoint import unflatten
from regvit_jax.convert.importing import to_ours
from regvit_jax.convert.recognise import recognise
from regvit_jax.convert.weights import read_weights

# The largest difference over all families is 1.6e-6, on logits with a spread of about 1.
LOGITS_ATOL = 2e-5


def imported_logits(path, images, **known):
    """What the weights of a file were recognised as, and their logits; nothing is written."""
    weights = read_weights(path)
    match = recognise(weights.tensors, known=weights.known | known)
    match.check(str(path))
    params = unflatten(to_ours(weights.tensors, match.dialect, match.config, str(path)))
    apply = jax.jit(DeiT3(match.config).apply)
    return match, apply({"params": params}, jax.numpy.asarray(images))


def torch_logits(torch, model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


@pytest.fixture
def same_logits(torch, tmp_path, images):
    """Asserts that a state imports as a family, with the logits of a torch model."""

    def check(model, state, family):
        torch.save(state, tmp_path / "file.pth")
        match, found = imported_logits(tmp_path / "file.pth", images, num_heads=3)
        assert match.family == family
        expected = torch_logits(torch, model, images)
        np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS_ATOL)
        return match

    return check


def gated(torch):
    """Options of timm that make its MLP the gated one of DINOv2's giant."""
    from timm.layers import SwiGLUPacked

    return {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 16 / 3}


@pytest.mark.parametrize("reg_tokens", [0, 4])
@pytest.mark.parametrize("num_classes", [0, 5])
def test_timm_without_a_position_for_cls(tiny_vit, same_logits, reg_tokens, num_classes):
    model = tiny_vit(reg_tokens, num_classes=num_classes)
    match = same_logits(model, model.state_dict(), "timm")
    assert (match.config.num_registers, match.config.num_classes) == (reg_tokens, num_classes)


@pytest.mark.parametrize("reg_tokens", [0, 4])
def test_timm_with_a_gated_mlp(torch, tiny_vit, same_logits, reg_tokens):
    model = tiny_vit(reg_tokens, num_classes=0, **gated(torch))
    match = same_logits(model, model.state_dict(), "timm")
    assert (match.config.mlp, match.config.mlp_dim) == ("swiglu", 64)


def test_timm_dinov2_with_a_position_for_cls(tiny_vit, same_logits):
    model = tiny_vit(0, no_embed_class=False, num_classes=0)
    same_logits(model, model.state_dict(), "timm-dinov2")


@pytest.mark.parametrize("num_classes", [0, 5])
def test_plain_vits_without_layer_scale(tiny_vit, same_logits, num_classes):
    model = tiny_vit(0, no_embed_class=False, init_values=None, num_classes=num_classes)
    match = same_logits(model, model.state_dict(), "deit1" if num_classes else "dino")
    assert not match.config.layer_scale


@pytest.mark.parametrize("is_gated", [False, True])
@pytest.mark.parametrize("num_registers", [0, 4])
def test_dinov2_as_timm_converts_it(torch, tiny_vit, same_logits, is_gated, num_registers):
    """timm's own converter reads DINOv2's names and folds the position of CLS."""
    from timm.models.vision_transformer import checkpoint_filter_fn

    options = gated(torch) if is_gated else {}
    model = tiny_vit(num_registers, no_embed_class=bool(num_registers), num_classes=0, **options)
    generator = torch.Generator().manual_seed(1)
    state = {"mask_token": torch.zeros(1, 24)}
    for name, tensor in model.state_dict().items():
        if is_gated:
            name = name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3")
        state[name.replace("reg_token", "register_tokens")] = tensor.clone()
    state["pos_embed"] = torch.randn(1, 17, 24, generator=generator)
    model.load_state_dict(checkpoint_filter_fn(dict(state), model), strict=True)
    match = same_logits(model, state, "dinov2")
    assert match.dropped == ["mask_token"]
    assert match.config.pos_resampling == ("antialias" if num_registers else "offset")


def test_deit3_jax(torch, tiny_vit, images, tmp_path):
    """A msgpack of deit3-jax: separate heads, a grid of positions, the tanh GELU."""
    serialization = pytest.importorskip("flax.serialization")
    model = tiny_vit(0, act_layer=lambda: torch.nn.GELU(approximate="tanh"))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    def layer(name):
        return {"kernel": state[f"{name}.weight"].T, "bias": state[f"{name}.bias"]}

    def norm(name):
        return {"scale": state[f"{name}.weight"], "bias": state[f"{name}.bias"]}

    def block(name):
        weights = state[f"{name}.attn.qkv.weight"].reshape(3, 3, 8, 24)  # q k v, head, width, in
        biases = state[f"{name}.attn.qkv.bias"].reshape(3, 3, 8)
        attn = {
            part: {"kernel": np.moveaxis(weight, -1, 0), "bias": bias}
            for part, weight, bias in zip(("wq", "wk", "wv"), weights, biases, strict=True)
        }
        out = layer(f"{name}.attn.proj")
        attn["wo"] = {"kernel": out["kernel"].reshape(3, 8, 24), "bias": out["bias"]}
        return {
            "attn": attn,
            "ff": {"w1": layer(f"{name}.mlp.fc1"), "w2": layer(f"{name}.mlp.fc2")},
            "norm1": norm(f"{name}.norm1"),
            "norm2": norm(f"{name}.norm2"),
            "scale1": state[f"{name}.ls1.gamma"],
            "scale2": state[f"{name}.ls2.gamma"],
        }

    convolution = state["patch_embed.proj.weight"].transpose(2, 3, 1, 0)
    tree = {
        "embed": {
            "cls_token": state["cls_token"],
            "wpe": state["pos_embed"].reshape(4, 4, 24),
            "wte": {"kernel": convolution, "bias": state["patch_embed.proj.bias"]},
        },
        **{f"layer_{i}": block(f"blocks.{i}") for i in range(2)},
        "norm": norm("norm"),
        "head": layer("head"),
    }
    tree = jax.tree.map(np.ascontiguousarray, tree)
    path = tmp_path / "deit3.msgpack"
    path.write_bytes(serialization.msgpack_serialize({"model": tree}))
    match, found = imported_logits(path, images)  # the heads are known
    assert (match.family, match.config.num_heads) == ("deit3-jax", 3)
    expected = torch_logits(torch, model, images)
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS_ATOL)


def test_a_damaged_msgpack_is_refused(refused, tmp_path):
    (tmp_path / "file.msgpack").write_bytes(b"\x81\xa5model\x83\xa5embed")
    assert "is damaged: it is no Flax msgpack file" in refused("inspect", tmp_path / "file.msgpack")


@pytest.fixture
def transformers(timm):
    return pytest.importorskip(
        "transformers", reason="Hugging Face's models: pip install transformers"
    )


HUGGING_FACE = {
    "Dinov2Model": ("Dinov2Config", {}),
    "Dinov2Model gated": ("Dinov2Config", {"use_swiglu_ffn": True}),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {"num_register_tokens": 4}),
    "Dinov2WithRegistersForImageClassification": ("Dinov2WithRegistersConfig", {}),
    "ViTForImageClassification": ("ViTConfig", {"intermediate_size": 72}),
    "ViTModel": ("ViTConfig", {"intermediate_size": 96}),
}


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_folders_of_transformers(torch, transformers, images, tmp_path, name):
    config_name, options = HUGGING_FACE[name]
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = getattr(transformers, config_name)(**sizes, image_size=32, patch_size=8, **options)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = getattr(transformers, name.split()[0])(config).eval()
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        model.save_pretrained(tmp_path / "folder")
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2))
        output = model(pixels, output_hidden_states=True)
    if "Classification" in name:
        expected = output.logits.numpy()
    else:
        expected = output.last_hidden_state[:, 0].numpy()
    match, found = imported_logits(tmp_path / "folder", images)
    assert match.family == ("hf-vit" if name.startswith("ViT") else "hf")
    np.testing.assert_allclose(found, expected, rtol=0, atol=LOGITS_ATOL)


def test_a_folder_of_another_kind_is_refused(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    message = refused("import", tmp_path / "folder", tmp_path / "out")
    assert "is a folder without weights" in message
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"")
    assert "is empty" in refused("inspect", tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text("{")
    assert "is not JSON" in refused("inspect", tmp_path / "folder")
