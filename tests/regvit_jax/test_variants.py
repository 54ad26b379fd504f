"""Does the model hold what other families do otherwise? NumPy in float64 is the other side."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax import DeiT3, ViTConfig
from regvit_jax.checkpoint import flatten, parameter_shapes
from regvit_jax.config import variant_name
from regvit_jax.model import init_params

TINY = ViTConfig(
    embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=32, num_classes=5, num_registers=4
)
GAP = dataclasses.replace(TINY, class_token=False, pooling="patches", pooled_norm=True)
VIT5 = dataclasses.replace(
    TINY,
    registers_last=True,
    norm="rms",
    qkv_bias=False,
    qk_norm=True,
    rope="scaled",
    rope_base=1e4,
    register_rope_base=100.0,
)
ODD = dataclasses.replace(
    TINY,
    image_width=48,
    num_channels=2,
    head_width=12,
    patch_bias=False,
    norm_pre=True,
    pos_embed=False,
    rope="centred",
    pooling="cls_and_patches",
    mlp="quick_gelu",
)
CLIP = dataclasses.replace(TINY, num_registers=0, head="projection", mlp="quick_gelu")
ALL = {"gap": GAP, "vit5": VIT5, "odd": ODD, "clip": CLIP}


def far_from_start(config):
    """A model, and weights far from their start values."""
    generator = np.random.default_rng(0)
    params = init_params(DeiT3(config), jax.random.key(0))
    noise = lambda leaf: 0.2 * generator.standard_normal(leaf.shape, np.float32)  # noqa: E731
    return DeiT3(config), jax.tree.map(lambda leaf: np.asarray(leaf) + noise(leaf), params)


def images_of(config, height=24, width=40):
    shape = (2, height, width, config.num_channels)
    return jax.random.normal(jax.random.key(1), shape)


@pytest.mark.parametrize("name", ALL)
def test_the_parameters_are_those_that_the_configuration_promises(name):
    model, params = far_from_start(ALL[name])
    found = {name: leaf.shape for name, leaf in flatten(params).items()}
    assert found == parameter_shapes(model.config)
    assert variant_name(model.config) == "custom"
    assert ViTConfig.from_json(dataclasses.asdict(model.config)) == model.config


@pytest.mark.parametrize("name", ALL)
def test_a_trace_has_the_tokens_of_its_layout_and_the_logits_of_a_call(name):
    model, params = far_from_start(ALL[name])
    images = images_of(model.config)
    trace = jax.jit(lambda p, x: model.apply({"params": p}, x, method="trace"))(params, images)
    layout = model.layout(images.shape)
    assert trace.normed.shape == (2, layout.num_tokens, 24)
    assert (layout.cls is None) == (not model.config.class_token)
    for kind, tokens in (("cls_token", layout.cls), ("reg_tokens", layout.registers)):
        if kind in params and not model.config.norm_pre:
            np.testing.assert_array_equal(trace.embedded[0, tokens], params[kind][0])
    call = jax.jit(lambda p, x: model.apply({"params": p}, x))
    np.testing.assert_array_equal(call(params, images), trace.logits)
    for block in trace.blocks:
        scale = model.config.head_dim**-0.5
        scores = scale * np.einsum("bkte,bkse->bkts", *np.float64([block.query, block.key]))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        expected = weights / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(block.attn, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ALL)
def test_the_head_reads_what_the_configuration_says(name):
    model, params = far_from_start(ALL[name])
    config, images = model.config, images_of(ALL[name])
    trace = model.apply({"params": params}, images, method="trace")
    layout, normed = model.layout(images.shape), np.float64(trace.normed)
    mean = normed[:, layout.patches].mean(axis=1)
    pooled = {
        "cls": lambda: normed[:, 0],
        "patches": lambda: mean,
        "cls_and_patches": lambda: np.concatenate([normed[:, 0], mean], axis=1),
    }[config.pooling]()
    if config.pooled_norm:
        centred = pooled - pooled.mean(-1, keepdims=True)
        pooled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        pooled = pooled * params["fc_norm"]["scale"] + params["fc_norm"]["bias"]
    head = params["head"]
    expected = pooled @ head["kernel"] + head.get("bias", 0.0)
    assert ("bias" in head) == (config.head == "classifier")
    np.testing.assert_allclose(trace.logits, expected, rtol=0, atol=1e-5)


def test_queries_and_keys_pass_a_norm_before_they_turn():
    """Without rotation, RMSNorm leaves queries whose mean square over the factors is 1."""
    config = dataclasses.replace(VIT5, rope="none", register_rope_base=0.0)
    model, params = far_from_start(config)
    trace = model.apply({"params": params}, images_of(config), method="trace")
    for i, block in enumerate(trace.blocks):
        factors = params[f"blocks_{i}"]["attn"]["q_norm"]["scale"]
        squares = ((np.float64(block.query) / factors) ** 2).mean(-1)
        np.testing.assert_allclose(squares, 1.0, rtol=0, atol=1e-3)  # epsilon beside small numbers


def test_bfloat16_turns_in_float32():
    config = dataclasses.replace(ODD, num_channels=3)
    model, params = far_from_start(config)
    images = images_of(config)
    exact = model.apply({"params": params}, images)
    rough = DeiT3(config, dtype=jnp.bfloat16).apply({"params": params}, images)
    difference = np.abs(exact - rough).max() / np.asarray(exact).std()
    assert rough.dtype == jnp.float32
    assert 1e-4 < difference < 0.08
