"""Are edits what they say? Compared with a forward pass written out in NumPy, float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf, softmax

from regvit_jax import DeiT3, Edit, InputError, ViTConfig, load, save
from regvit_jax.checkpoint import CheckpointInfo
from regvit_jax.config import AddedRegisters
from regvit_jax.edits import shift_units, zero_units
from regvit_jax.model import init_params

CONFIG = ViTConfig(
    embed_dim=12, depth=2, num_heads=3, patch_size=4, image_size=8, num_registers=3, num_classes=5
)
IMAGES = np.random.default_rng(1).standard_normal((2, 8, 8, 3), np.float32)
UNITS = ((0, 3), (0, 40), (1, 7))


def far_from_start(config):
    generator = np.random.default_rng(0)
    start = init_params(DeiT3(config), jax.random.key(0))
    noise = lambda leaf: 0.3 * generator.standard_normal(leaf.shape, np.float32)  # noqa: E731
    return jax.tree.map(lambda leaf: np.asarray(leaf) + noise(leaf), start)


PARAMS = far_from_start(CONFIG)


def traced(config=CONFIG, edit=None, params=PARAMS):
    run = jax.jit(lambda p, x: DeiT3(config).apply({"params": p}, x, edit=edit, method="trace"))
    return run(params, IMAGES)


def _same(layer, x):
    return x


def numpy_logits(keep=(0, 1, 2), zeros=0, value=_same, attn_out=_same, hidden=_same, tokens=_same):
    """DeiT-III written out: which registers enter, zeros after them, and functions in places."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), PARAMS)

    def norm(x, at):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return scaled * at["scale"] + at["bias"]

    def dense(x, at):
        return x @ at["kernel"] + at["bias"]

    patches = IMAGES.reshape(2, 2, 4, 2, 4, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 4, 48)
    kernel = p["patch_embed"]["kernel"].reshape(48, 12)
    patches = patches @ kernel + p["patch_embed"]["bias"] + p["pos_embed"]
    repeat = lambda x: np.repeat(x, 2, axis=0)  # noqa: E731
    registers = p["reg_tokens"][:, list(keep)]
    x = [repeat(p["cls_token"]), repeat(registers), np.zeros((2, zeros, 12)), patches]
    x = np.concatenate(x, axis=1)
    for layer in range(2):
        at = p[f"blocks_{layer}"]
        qkv = dense(norm(x, at["norm1"]), at["attn"]["qkv"])
        q, k, v = qkv.reshape(2, -1, 3, 3, 4).transpose(2, 0, 3, 1, 4)
        v = value(layer, v)
        out = softmax(q @ k.swapaxes(-1, -2) / 2, axis=-1) @ v
        out = attn_out(layer, dense(out.swapaxes(1, 2).reshape(2, -1, 12), at["attn"]["proj"]))
        x = x + at["ls1"] * out
        units = dense(norm(x, at["norm2"]), at["mlp"]["fc1"])
        units = hidden(layer, units * (1 + erf(units / np.sqrt(2))) / 2)
        x = tokens(layer, x + at["ls2"] * dense(units, at["mlp"]["fc2"]))
    return dense(norm(x, p["norm"])[:, 0], p["head"])


def close(got, want):
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-5)  # measured 3e-6


def bent(layer, x):
    return x * x - x if layer else x * x


@pytest.mark.parametrize("place", ["value", "attn_out", "hidden", "tokens"])
def test_a_place_in_a_block_is_changed_before_it_is_used(place):
    changed = traced(edit=Edit(**{place: bent})).logits
    close(changed, numpy_logits(**{place: bent}))
    assert np.abs(changed - traced().logits).max() > 0.05


def test_registers_are_dropped_and_tokens_of_zeros_join_after_the_others():
    edit = Edit(dropped=(1,), added=2)
    layout = DeiT3(CONFIG).layout(IMAGES.shape, edit)
    assert (layout.num_registers, layout.num_tokens) == (4, 9)
    trace = traced(edit=edit)
    close(trace.logits, numpy_logits(keep=(0, 2), zeros=2))
    assert layout.split(trace.blocks[1].tokens).registers.shape == (2, 4, 12)
    np.testing.assert_array_equal(trace.embedded[:, layout.registers][:, 2:], 0)


def test_the_other_registers_do_not_mind_where_zeros_join_behind_the_patches():
    last = dataclasses.replace(CONFIG, registers_last=True)
    edit = Edit(dropped=(1,), added=2)
    close(traced(last, edit).logits, numpy_logits(keep=(0, 2), zeros=2))


def shifted(rule, place):
    """Algorithm 2 with Python's loops; the added token stands at `place`."""

    def hidden(layer, x):
        x, before = x.copy(), x
        chosen = [unit for block, unit in UNITS if block == layer]
        for b in range(len(x)):
            candidates = [v for unit in chosen for v in before[b, :, unit]]
            for unit in chosen:
                x[b, :, unit] = 0
                if rule == "released":
                    x[b, 0, unit] = before[b, 0, unit]
                    x[b, place, unit] = max(candidates, key=abs)
                else:
                    x[b, place, unit] = max(before[b, :, unit])
        return x

    return hidden


@pytest.mark.parametrize("rule", ["paper", "released"])
def test_a_checkpoint_with_test_time_registers_applies_them(tmp_path, rule):
    config = dataclasses.replace(CONFIG, added=AddedRegisters(UNITS, rule=rule))
    save(tmp_path / "model", PARAMS, CheckpointInfo(config))
    model, params = load(tmp_path / "model")
    assert model.config == config
    want = numpy_logits(zeros=1, hidden=shifted(rule, 4))
    close(model.apply({"params": params}, jnp.asarray(IMAGES)), want)
    layout = model.layout(IMAGES.shape)
    assert (layout.num_registers, layout.patches) == (4, slice(5, 9))
    # An edit of the caller's comes after the model's own, registers dropped included.
    got = model.apply(
        {"params": params}, jnp.asarray(IMAGES), edit=Edit(dropped=(0, 2)), method="trace"
    )
    close(got.logits, numpy_logits(keep=(1,), zeros=1, hidden=shifted(rule, 2)))


def test_units_may_be_named_by_a_traced_array():
    units = np.zeros((2, 48), bool)
    units[tuple(np.array(UNITS).T)] = True
    layout = DeiT3(CONFIG).layout(IMAGES.shape)

    @jax.jit
    def logits(units):
        edits = zero_units(units), shift_units(layout, units)
        return [
            DeiT3(CONFIG)
            .apply({"params": PARAMS}, jnp.asarray(IMAGES), edit=edit, method="trace")
            .logits
            for edit in edits
        ]

    silent, moved = logits(jnp.asarray(units))
    close(moved, numpy_logits(zeros=1, hidden=shifted("paper", 4)))
    close(silent, numpy_logits(hidden=lambda layer, x: np.where(units[layer], 0, x)))


def test_edits_join_in_order():
    one, other = Edit(hidden=bent, added=1), Edit(hidden=lambda i, x: x - 1, dropped=(2,))
    want = numpy_logits(keep=(0, 1), zeros=1, hidden=lambda i, x: bent(i, x) - 1)
    close(traced(edit=one.then(other)).logits, want)
    close(
        traced(edit=one.then(lambda i, x: -x).then(other)).logits,
        numpy_logits(
            keep=(0, 1), zeros=1, hidden=lambda i, x: bent(i, x) - 1, tokens=lambda i, x: -x
        ),
    )


def program(edit):
    run = lambda p, x: DeiT3(CONFIG).apply({"params": p}, x, edit=edit, method="trace")  # noqa: E731
    return jax.jit(run).lower(PARAMS, IMAGES).as_text()


def test_what_an_edit_does_not_name_costs_nothing():
    plain = program(None)
    assert program(Edit()) == plain == program(zero_units(np.zeros((2, 48), bool)))
    one_block = np.zeros((2, 48), bool)
    one_block[1, 5] = True
    assert len(program(zero_units(one_block)).splitlines()) - len(plain.splitlines()) < 12
    assert program(Edit(attn_out=lambda layer, x: x)) == plain


def test_units_and_registers_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match="Register 3 cannot be dropped: the model has 3, from 0"):
        traced(edit=Edit(dropped=(3,)))
    with pytest.raises(InputError, match=r"unit 48 of block 1; the model has 2 blocks of 48"):
        dataclasses.replace(CONFIG, added=AddedRegisters(((1, 48),)))
    with pytest.raises(InputError, match="each once"):
        AddedRegisters(((0, 1), (0, 1)))


def test_weights_with_test_time_registers_are_neither_exported_nor_trained(tmp_path):
    from regvit_jax.convert.exporting import export_checkpoint
    from regvit_jax.train.initial import check_init
    from regvit_jax.train.recipe import Recipe

    config = dataclasses.replace(CONFIG, added=AddedRegisters(UNITS))
    save(tmp_path / "model", PARAMS, CheckpointInfo(config))
    with pytest.raises(InputError, match="no place for .*test-time registers"):
        export_checkpoint(tmp_path / "model", tmp_path / "file.pth", "deit")
    with pytest.raises(InputError, match="Start from the checkpoint that they were added to"):
        check_init(Recipe(init=str(tmp_path / "model")))
