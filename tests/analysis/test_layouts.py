"""Do analyses read the right tokens where CLS is missing, or registers follow the patches?"""

import dataclasses

import jax
import numpy as np
import pytest

from regvit_jax import DeiT3, ViTConfig
from regvit_jax.analysis.engine.columns import Columns
from regvit_jax.analysis.engine.written import question
from regvit_jax.analysis.questions.attention.attention import attention_maps
from regvit_jax.analysis.questions.attention.options import AttentionOptions
from regvit_jax.analysis.questions.attention.question import ANALYSIS
from regvit_jax.analysis.questions.attention.rollout import rollout
from regvit_jax.analysis.questions.norms.norms import _layer_summaries
from regvit_jax.analysis.questions.probe.tokens import ProbedTokens, TokenStore, kept_tokens
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.checkpoint import CheckpointInfo, parameter_shapes, save, unflatten
from regvit_jax.errors import InputError
from regvit_jax.model import init_params
from regvit_jax.preprocess import Preprocess
from regvit_jax.tokens import TokenLayout
from tests.analysis.conftest import norm_columns, some_images

LAST = TokenLayout(2, (2, 3), registers_last=True)
NO_CLS = TokenLayout(2, (2, 3), has_cls=False)


@pytest.mark.parametrize("layout", [LAST, NO_CLS])
def test_norms_are_those_of_their_kind(layout):
    """Token t of image n has the norm 100 n + t."""
    norms = 100.0 * np.arange(3)[:, None, None] + np.arange(layout.num_tokens)[None, None]
    norms = np.broadcast_to(norms, (3, 2, layout.num_tokens)).astype(np.float32)
    columns = norm_columns(norms, layout)
    found = {s.kind: s for s in _layer_summaries(columns, Bootstrap(3, 10, 0))}
    assert ("cls" in found) == layout.has_cls
    for i, place in enumerate(range(layout.registers.start, layout.registers.stop)):
        assert found[f"register_{i}"].values["mean"].value == 100 + place


@pytest.mark.parametrize("name", ["vit5", "gap"])
def test_attention_is_that_of_cls_and_registers_wherever_they_stand(name, tiny_config):
    changes = {
        "vit5": {"registers_last": True},
        "gap": {"class_token": False, "pooling": "patches"},
    }[name]
    config = dataclasses.replace(tiny_config, num_registers=2, **changes)
    model = DeiT3(config)
    params = init_params(model, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, 16, 24, 3))
    trace = model.apply({"params": params}, images, method="trace")
    layout = model.layout(images.shape)
    keep = attention_maps(some_images(), Preprocess(16, 24), 1)
    attn = np.asarray(trace.blocks[1].attn)[:, :, list(layout.specials)]
    maps = keep.reduce(trace, layout)["maps"]
    np.testing.assert_array_equal(maps, attn[..., layout.patches])
    step = np.eye(layout.num_tokens)
    for block in trace.blocks:
        step = (0.5 * np.eye(layout.num_tokens) + 0.5 * np.asarray(block.attn).mean(1)) @ step
    expected = step[:, list(layout.specials)][..., layout.patches]
    np.testing.assert_allclose(rollout(trace, layout), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [LAST, NO_CLS])
def test_probes_read_the_vectors_of_their_kind(layout):
    tokens = np.random.default_rng(0).normal(size=(4, layout.num_tokens, 5)).astype(np.float32)
    norms = np.ones((4, 6), np.float32)
    mean = tokens[:, layout.patches].mean(axis=1)
    in_order = np.concatenate([layout.special(tokens), tokens[:, layout.patches]], axis=1)
    rows = kept_tokens(
        np.arange(4),
        ProbedTokens(in_order, mean, norms, tokens[:, layout.patches]),
        3,
        draws=1,
        seed=0,
    )
    columns = Columns({"index": np.arange(4), "label": np.arange(4), **rows})
    store = TokenStore(columns, norms, norms > 9, layout.num_registers, 0, layout.has_cls)
    read = {kind: store.features(kind, 0) for kind in store.kinds}
    registers = tokens[:, layout.registers]
    assert ("cls" in read) == layout.has_cls
    if layout.has_cls:
        np.testing.assert_array_equal(read["cls"], tokens[:, 0])
    np.testing.assert_array_equal(read["mean_patch"], mean)
    np.testing.assert_array_equal(read["register_1"], registers[:, 1])
    np.testing.assert_allclose(read["mean_register"], registers.mean(axis=1), atol=1e-7)


def test_a_model_without_cls_is_not_asked_where_cls_looks(tmp_path, save_tiny):
    folder = save_tiny(class_token=False, pooling="patches", pooled_norm=True)
    options = AttentionOptions(checkpoint=(folder,), data="digits", out=tmp_path / "out")
    with pytest.raises(InputError, match="without a CLS token: tiny"):
        question(ANALYSIS, options)


def test_a_model_of_other_channels_is_shown_no_pictures(tmp_path, save_tiny):
    options = AttentionOptions(
        checkpoint=(save_tiny(num_channels=4),), data="digits", out=tmp_path / "out"
    )
    with pytest.raises(InputError, match="takes images of 4 channels"):
        question(ANALYSIS, options)


@pytest.fixture
def tiny_config():
    return ViTConfig(embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=16)


@pytest.fixture
def save_tiny(tmp_path, tiny_config):
    """Saves a tiny model that is otherwise in some fields, and gives its folder."""

    def build(**changes):
        config = dataclasses.replace(tiny_config, **changes)
        shapes = parameter_shapes(config)
        params = unflatten({name: np.zeros(shape, np.float32) for name, shape in shapes.items()})
        save(tmp_path / "tiny", params, CheckpointInfo(config))
        return tmp_path / "tiny"

    return build
