import numpy as np
import pytest

from regvit_jax import ViTConfig
from regvit_jax.checkpoint import parameter_shapes
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.rules import CLASS_SLOT, DENSE, JOIN, chain, our_shapes, rules

TINY = {"embed_dim": 24, "depth": 3, "num_heads": 3, "patch_size": 8, "image_size": 40}
TINY["num_classes"] = 7


MODELS = {
    "registers": {"num_registers": 4, "mlp_ratio": 3.5},
    "plain": {},
    "headless": {"num_classes": 0},
    "unscaled": {"layer_scale": False, "num_registers": 1},
    "gated": {"mlp": "swiglu", "mlp_ratio": 8 / 3},
}


@pytest.mark.parametrize("model", MODELS)
def test_the_table_names_exactly_the_parameters_of_the_model(model):
    config = ViTConfig(**TINY | MODELS[model])
    assert our_shapes(config) == parameter_shapes(config)


@pytest.mark.parametrize("family", DIALECTS)
@pytest.mark.parametrize("model", MODELS)
def test_every_family_gives_back_what_it_was_given_bit_for_bit(family, model):
    config = ViTConfig(**TINY | MODELS[model])
    generator = np.random.default_rng(0)
    for rule in rules(DIALECTS[family], config):
        ours = [generator.normal(size=shape).astype(np.float32) for shape in rule.ours.values()]
        ours[0].flat[0] = -0.0
        theirs = rule.transform.to_theirs(ours)
        expected = dict(zip(rule.theirs, (array.shape for array in theirs), strict=True))
        assert rule.their_shapes() == expected
        for array, back in zip(ours, rule.transform.to_ours(theirs), strict=True):
            assert array.tobytes() == np.ascontiguousarray(back).tobytes()


def test_three_layers_join_in_the_order_query_key_value():
    weights = [np.full((2, 3), i, np.float32) for i in range(3)]  # (out, in)
    (joined,) = chain(DENSE, JOIN).to_ours(weights)
    np.testing.assert_array_equal(joined, np.repeat([[0.0, 0, 1, 1, 2, 2]], 3, axis=0))
    (bias,) = JOIN.to_ours([weight[:, 0] for weight in weights])
    np.testing.assert_array_equal(bias, [0, 0, 1, 1, 2, 2])


def test_the_position_of_cls_is_added_to_its_token():
    cls_token, pos_embed = np.full((1, 1, 2), 3.0), np.arange(8.0).reshape(1, 4, 2)
    token, positions = CLASS_SLOT.to_ours([cls_token, pos_embed])
    np.testing.assert_array_equal(token, [[[3.0, 4.0]]])
    np.testing.assert_array_equal(positions, pos_embed[:, 1:])
