import numpy as np
import pytest

from regvit_jax import InputError, ViTConfig
from regvit_jax.checkpoint import parameter_shapes
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.rules import our_shapes, rules
from regvit_jax.convert.transforms import DENSE, JOIN3, MASKED_KEY, WITHOUT_KEY, chain, fold

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8, "image_size": 40}
TINY["num_classes"] = 7


MODELS = {
    "registers": {"num_registers": 4, "mlp_ratio": 3.5},
    "plain": {},
    "headless": {"num_classes": 0},
    "unscaled": {"layer_scale": False, "num_registers": 1},
    "gated": {"mlp": "swiglu", "mlp_ratio": 8 / 3},
    "no CLS": {"class_token": False, "pooling": "patches", "pooled_norm": True, "num_registers": 2},
    "rectangular": {"image_width": 56, "num_channels": 2, "head_width": 12},
    "normed": {"norm": "rms", "qk_norm": True, "norm_pre": True, "qkv_bias": False},
    "turned": {"rope": "centred", "pos_embed": False, "patch_bias": False, "head": "projection"},
}


@pytest.mark.parametrize("model", MODELS)
def test_the_table_names_exactly_the_parameters_of_the_model(model):
    config = ViTConfig(**TINY | MODELS[model])
    assert our_shapes(config) == parameter_shapes(config)


@pytest.mark.parametrize("family", DIALECTS)
@pytest.mark.parametrize("model", MODELS)
def test_every_family_gives_back_what_it_was_given_bit_for_bit(family, model, as_family_has_it):
    config = as_family_has_it(ViTConfig(**TINY | MODELS[model]), family)
    generator = np.random.default_rng(0)
    for dialect in DIALECTS[family].spelt():
        told = dict.fromkeys(our_shapes(config), 0)
        for rule in rules(dialect, config):
            ours = [generator.normal(size=shape).astype(np.float32) for shape in rule.ours.values()]
            ours[0].flat[0] = -0.0
            if list(rule.ours) == ["blocks_0/attn/qkv/bias"] or "qkv/bias" in str(rule.ours):
                np.split(ours[0], 3)[1][:] = 0  # some families have none of keys
            for name in rule.ours:
                told[name] += 1
            theirs = rule.transform.to_theirs(ours)
            expected = dict(zip(rule.theirs, (array.shape for array in theirs), strict=True))
            assert rule.their_shapes() == expected
            for array, back in zip(ours, rule.transform.to_ours(theirs), strict=True):
                assert array.tobytes() == np.ascontiguousarray(back).tobytes()
        assert set(told.values()) <= {1} or dialect is not DIALECTS[family]


def test_three_layers_join_in_the_order_query_key_value():
    weights = [np.full((2, 3), i, np.float32) for i in range(3)]  # (out, in)
    (joined,) = chain(DENSE, JOIN3).to_ours(weights)
    np.testing.assert_array_equal(joined, np.repeat([[0.0, 0, 1, 1, 2, 2]], 3, axis=0))
    (bias,) = JOIN3.to_ours([weight[:, 0] for weight in weights])
    np.testing.assert_array_equal(bias, [0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize("has_slot", [(True, False), (False, True), (True, True)])
def test_positions_of_tokens_are_added_to_the_tokens(has_slot):
    cls_token, registers = np.full((1, 1, 2), 3.0), np.full((1, 2, 2), 5.0)
    positions = np.arange(16.0).reshape(1, 8, 2)
    found = fold((*has_slot, False), (1, 2, 5)).to_ours([cls_token, registers, positions])
    start = 0
    for token, back, slot in zip((cls_token, registers), found, has_slot, strict=False):
        count = token.shape[1] if slot else 0
        moved = token + positions[:, start : start + count] if slot else token
        np.testing.assert_array_equal(back, moved)
        start += count
    np.testing.assert_array_equal(found[-1], positions[:, start:])


def test_biases_of_keys_are_zero_where_a_family_masks_them_or_has_none():
    bias = np.arange(1.0, 7.0)
    mask = np.array([1.0, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(MASKED_KEY.to_ours([bias, mask])[0], [1, 2, 0, 0, 5, 6])
    np.testing.assert_array_equal(WITHOUT_KEY.to_ours([bias[:2], bias[4:]])[0], bias * mask)
    np.testing.assert_array_equal(MASKED_KEY.to_theirs([bias * mask])[1], mask)
    with pytest.raises(InputError, match="biases of keys that are not zero"):
        WITHOUT_KEY.to_theirs([bias])
    with pytest.raises(InputError, match="other numbers than 0 and 1"):
        MASKED_KEY.to_ours([bias, np.full(6, np.nan)])
