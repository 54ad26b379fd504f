"""Does a model of PyTorch become ours without a file, and stay what it was?"""

import functools

import jax
import numpy as np
import pytest

from regvit_jax import InputError, ViTConfig, load, save
from regvit_jax.convert import from_torch
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.rules import rules


def logits_of(torch, model, images):
    with torch.no_grad():
        return model(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


def test_a_model_of_timm_is_taken_as_it_is(torch, tiny_vit, images, tmp_path):
    """Heads, epsilon and tanh GELU are read from its modules: nothing of them is assumed."""
    norm = functools.partial(torch.nn.LayerNorm, eps=1e-4)
    act = functools.partial(torch.nn.GELU, approximate="tanh")
    theirs = tiny_vit(4, norm_layer=norm, act_layer=act)
    model, params, info = from_torch(theirs)
    expected = logits_of(torch, theirs, images)
    found = model.apply({"params": params}, jax.numpy.asarray(images))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assumed = {item["what"] for item in info.source["assumed"]}
    assert not assumed & {"attention heads", "LayerNorm epsilon", "activation"}
    save(tmp_path / "out", params, info)
    assert load(tmp_path / "out")[0].config == model.config


def test_what_pytorch_does_afterwards_changes_nothing(torch, tiny_vit):
    theirs = tiny_vit(4)
    _, params, _ = from_torch(theirs)
    before = np.array(params["blocks_0"]["ls1"])
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(params["blocks_0"]["ls1"], before)


def test_a_state_dict_in_half_precision_on_a_prefix(torch, tiny_vit):
    state = {f"backbone.{k}": v.bfloat16() for k, v in tiny_vit(2).state_dict().items()}
    model, params, info = from_torch(state, num_heads=3)
    assert (model.config.num_registers, info.source["prefix"]) == (2, "backbone.")
    expected = state["backbone.reg_token"].float().numpy()
    np.testing.assert_array_equal(params["reg_tokens"], expected)


@pytest.mark.parametrize(("prefix", "family"), [("vision_encoder.", "tips"), ("", "dinov2")])
def test_tips_is_told_by_its_prefix(prefix, family, as_family_has_it):
    """Its names are DINOv2's, its pixels are not: no mean is taken away."""
    config = as_family_has_it(ViTConfig(24, 1, 3, 8, 32, num_registers=1), "tips")
    state = {
        prefix + name: np.zeros(shape, np.float32)
        for rule in rules(DIALECTS["tips"], config)
        for name, shape in rule.their_shapes().items()
    }
    info = from_torch(state | {f"{prefix}mask_token": np.zeros((1, 24))}, num_heads=3).info
    assert info.source["family"] == family
    assert (info.preprocess.mean == (0.0, 0.0, 0.0)) == (family == "tips")


def test_norms_after_the_layers_are_refused_where_seen_and_otherwise_assumed_not_to_be(tiny_vit):
    """timm's rpn models have tensors of the same names and shapes as those with norms before."""
    from timm.models.vision_transformer import ResPostBlock

    rpn = {"class_token": False, "global_pool": "avg", "qkv_bias": False, "fc_norm": False}
    theirs = tiny_vit(0, **rpn, block_fn=ResPostBlock)
    with pytest.raises(InputError, match="norms come after"):
        from_torch(theirs)
    assumed = from_torch(theirs.state_dict(), num_heads=3).info.source["assumed"]
    assert "norms before attention and MLP" in {item["text"] for item in assumed}
    common = from_torch(tiny_vit(4).state_dict(), num_heads=3).info.source["assumed"]
    assert "norms before attention and MLP" not in {item["text"] for item in common}


IN_MEMORY = {
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", {}),
    "Dinov2ForImageClassification": ("Dinov2Config", {"use_swiglu_ffn": True}),
    "ViTForImageClassification": ("ViTConfig", {"intermediate_size": 48}),
    "CLIPVisionModelWithProjection": ("CLIPVisionConfig", {"projection_dim": 6}),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {"intermediate_size": 48}),
}


@pytest.mark.parametrize("name", IN_MEMORY)
def test_a_model_of_transformers_brings_its_configuration(torch, timm, images, name):
    transformers = pytest.importorskip("transformers", reason="needs transformers")
    kind, options = IN_MEMORY[name]
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    config = getattr(transformers, kind)(**sizes, image_size=32, patch_size=8, **options)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        theirs = getattr(transformers, name)(config).eval()
        for parameter in theirs.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
        output = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2)))
    model, params, _ = from_torch(theirs)
    expected = next(
        output[name] for name in ("logits", "image_embeds", "pooler_output") if name in output
    )
    found = jax.jit(model.apply)({"params": params}, jax.numpy.asarray(images))
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("source", [3, {}, {"a": 1}])
def test_what_is_no_model_is_refused(source):
    with pytest.raises(InputError, match="from_torch takes|holds tensors"):
        from_torch(source)
