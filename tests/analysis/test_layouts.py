"""Do analyses read the right tokens where CLS is missing, or registers follow the patches?"""

import dataclasses

import jax
import numpy as np
import pytest

from regvit_jax import DeiT3, ViTConfig
from regvit_jax.analysis.options import AttentionOptions
from regvit_jax.analysis.questions.attention.attention import attention_rows
from regvit_jax.analysis.questions.attention.command import check_models
from regvit_jax.analysis.questions.attention.rollout import rollout
from regvit_jax.analysis.questions.norms.norms import NormStore, _layer_summaries
from regvit_jax.analysis.questions.probe.tokens import ProbedTokens, TokenStore
from regvit_jax.analysis.statistics.bootstrap import Bootstrap
from regvit_jax.batches import Batch
from regvit_jax.checkpoint import CheckpointInfo, parameter_shapes, save, unflatten
from regvit_jax.errors import InputError
from regvit_jax.model import init_params
from regvit_jax.tokens import TokenLayout

LAST = TokenLayout(2, (2, 3), registers_last=True)
NO_CLS = TokenLayout(2, (2, 3), has_cls=False)


@pytest.mark.parametrize("layout", [LAST, NO_CLS])
def test_norms_are_those_of_their_kind(layout):
    """Token t of image n has the norm 100 n + t."""
    norms = 100.0 * np.arange(3)[:, None, None] + np.arange(layout.num_tokens)[None, None]
    norms = np.broadcast_to(norms, (3, 2, layout.num_tokens)).astype(np.float32)
    with NormStore(2, layout) as store:
        store.append(norms)
        found = {s.kind: s for s in _layer_summaries(store, Bootstrap(3, 10, 0))}
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
    rows = attention_rows(1)(trace, layout) if layout.has_cls else None
    attn = np.asarray(trace.blocks[1].attn)[:, :, list(layout.specials)]
    if rows is not None:
        np.testing.assert_array_equal(rows.maps, attn[..., layout.patches])
    step = np.eye(layout.num_tokens)
    for block in trace.blocks:
        step = (0.5 * np.eye(layout.num_tokens) + 0.5 * np.asarray(block.attn).mean(1)) @ step
    expected = step[:, list(layout.specials)][..., layout.patches]
    np.testing.assert_allclose(rollout(trace, layout), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", [LAST, NO_CLS])
def test_probes_read_the_vectors_of_their_kind(layout):
    tokens = np.random.default_rng(0).normal(size=(4, layout.num_tokens, 5)).astype(np.float32)
    norms = np.ones((4, 6), np.float32)
    with TokenStore(layout, 5, draws=1, seed=0) as store:
        batch = Batch(np.zeros((0, 1, 1, 3), np.uint8), np.arange(4), np.arange(4))
        mean = tokens[:, layout.patches].mean(axis=1)
        store.add(batch, ProbedTokens(tokens, mean, norms, norms))
        read = {kind: store.features(kind, 0, 9.0) for kind in store.kinds}
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
        check_models(options)


def test_a_model_of_other_channels_is_shown_no_pictures(tmp_path, save_tiny):
    options = AttentionOptions(
        checkpoint=(save_tiny(num_channels=4),), data="digits", out=tmp_path / "out"
    )
    with pytest.raises(InputError, match="takes images of 4 channels"):
        check_models(options)


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
