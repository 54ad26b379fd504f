"""Are queries and keys turned as the families turn them? Complex numbers are the other side."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax import InputError, TokenLayout, ViTConfig
from regvit_jax.rotary import turn_of, turned

CONFIG = ViTConfig(
    embed_dim=24, depth=1, num_heads=3, patch_size=8, image_size=32, num_registers=4, rope="scaled"
)
"""Heads of 8 channels: 4 pairs, 2 for each axis; trained on 4 x 4 patches."""


def rotation(rope, row, col, rows, cols, base):
    """One complex number for each pair of channels, by the rule that was published."""
    slow = [1.0, base**-0.5]
    if rope == "centred":  # centres of patches between -1 and 1, in turns
        places = (2 * (row + 0.5) / rows - 1, 2 * (col + 0.5) / cols - 1)
        slow = [2 * np.pi * frequency for frequency in slow]
    else:  # as though there were 4 x 4 patches
        places = (row * 4 / rows, col * 4 / cols)
    return np.exp(1j * np.array([place * frequency for place in places for frequency in slow]))


@pytest.mark.parametrize(("rope", "base"), [("centred", 100.0), ("scaled", 10_000.0)])
@pytest.mark.parametrize("registers_last", [False, True])
def test_pairs_of_channels_turn_by_the_place_of_their_patch(rope, base, registers_last):
    config = dataclasses.replace(CONFIG, rope=rope, rope_base=base, registers_last=registers_last)
    layout = TokenLayout(4, (3, 5), registers_last=registers_last)
    turn = turn_of(config, layout)
    x = np.random.default_rng(0).normal(size=(2, 3, layout.num_tokens, 8)).astype(np.float32)
    found = np.asarray(turned(jnp.asarray(x), turn))
    for place in layout.specials:
        np.testing.assert_array_equal(found[..., place, :], x[..., place, :])
    for patch, place in enumerate(range(layout.patches.start, layout.patches.stop)):
        spin = rotation(rope, *divmod(patch, 5), 3, 5, base)
        vector = x[..., place, :]
        if rope == "centred":  # a channel's partner is half a head away
            pairs = (vector[..., :4] + 1j * vector[..., 4:]) * spin
            expected = np.concatenate([pairs.real, pairs.imag], axis=-1)
        else:  # its partner is beside it
            pairs = (vector[..., ::2] + 1j * vector[..., 1::2]) * spin
            expected = np.stack([pairs.real, pairs.imag], axis=-1).reshape(vector.shape)
        np.testing.assert_allclose(found[..., place, :], expected, rtol=0, atol=2e-6)


def test_registers_turn_on_a_square_grid_of_their_own():
    config = dataclasses.replace(CONFIG, registers_last=True, register_rope_base=100.0)
    layout = TokenLayout(4, (2, 3), registers_last=True)
    angles = np.arccos(turn_of(config, layout).cos[layout.registers])
    # Of the fastest pair of each axis: rows 0 0 1 1, columns 0 1 0 1.
    np.testing.assert_allclose(angles[:, 0], [0, 0, 1, 1], atol=1e-6)
    np.testing.assert_allclose(angles[:, 4], [0, 1, 0, 1], atol=1e-6)
    assert turn_of(config, layout).cos[0].min() == 1  # CLS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 18}, "turn groups of 4 channels; a head has 6"),
        ({"register_rope_base": 100.0, "num_registers": 3}, "a square number of registers"),
        ({"register_rope_base": 100.0, "rope": "none"}, "needs rotary positions"),
        ({"class_token": False}, "can only pool 'patches'"),
        ({"pooled_norm": True, "pooling": "cls_and_patches"}, "pooled_norm needs pooling"),
        ({"image_width": 20}, "image_width 20 is not a multiple of patch_size 8"),
    ],
)
def test_parts_that_contradict_each_other_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(CONFIG, **changes)
