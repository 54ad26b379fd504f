"""Does every token end up with its own kind?"""

import jax.numpy as jnp
import numpy as np
import pytest

from regvit_jax.errors import InputError
from regvit_jax.tokens import TokenLayout, resolve_layers


@pytest.mark.parametrize("num_registers", range(17))
def test_the_slices_cut_a_sequence_without_gap_or_overlap(num_registers):
    layout = TokenLayout(num_registers, grid=(3, 5))
    ids = np.arange(layout.num_tokens)
    cut = np.concatenate([ids[layout.cls], ids[layout.registers], ids[layout.patches]])
    np.testing.assert_array_equal(cut, ids)
    assert len(ids[layout.registers]) == num_registers
    assert len(ids[layout.patches]) == layout.num_patches == 15


def test_patches_return_to_their_rows_and_columns():
    layout = TokenLayout(num_registers=2, grid=(3, 5))
    tokens = layout.split(jnp.arange(2 * 18.0).reshape(2, 18, 1))
    assert tokens.cls.shape == (2, 1)
    np.testing.assert_array_equal(tokens.registers[0, :, 0], [1, 2])
    np.testing.assert_array_equal(tokens.patches[0, :, :, 0], 3 + np.arange(15).reshape(3, 5))
    np.testing.assert_array_equal(tokens.patches[1, 2, 4], [35])


def test_a_sequence_of_another_length_is_refused():
    with pytest.raises(InputError, match=r"Expected 18 tokens \(1 CLS \+ 2 registers \+ 3 x 5"):
        TokenLayout(2, (3, 5)).split(jnp.zeros((1, 17, 4)))


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(None, (0, 1, 2, 3)), (2, (2, 3)), (0, ()), ([-1], (3,)), ((1, -4), (1, 0))],
)
def test_layers_are_resolved_to_indices(layers, expected):
    assert resolve_layers(layers, depth=4) == expected


@pytest.mark.parametrize("layers", [[4], [-5], 5])
def test_blocks_beyond_the_model_are_refused(layers):
    with pytest.raises(InputError, match="No such blocks in a model of depth 4"):
        resolve_layers(layers, depth=4)


@pytest.mark.parametrize("has_cls", [False, True])
@pytest.mark.parametrize("registers_last", [False, True])
@pytest.mark.parametrize("num_registers", [0, 3])
def test_every_order_of_tokens_has_each_token_once(has_cls, registers_last, num_registers):
    layout = TokenLayout(num_registers, (2, 3), has_cls, registers_last)
    kinds = ["C"] * has_cls
    registers, patches = list("012")[:num_registers], list("abcdef")
    kinds += [*patches, *registers] if registers_last else [*registers, *patches]
    assert layout.num_tokens == len(kinds)
    assert kinds[layout.registers] == registers
    assert kinds[layout.patches] == patches
    assert (None if layout.cls is None else kinds[layout.cls]) == (["C"] if has_cls else None)
    specials = ["C"] * has_cls + registers
    assert [kinds[i] for i in layout.specials] == specials
    names = ["CLS"] * has_cls + [f"register {i}" for i in range(num_registers)]
    assert list(layout.special_names) == names
    tokens = np.arange(2 * len(kinds) * 4.0, dtype=np.float32).reshape(2, len(kinds), 4)
    np.testing.assert_array_equal(layout.special(tokens), tokens[:, list(layout.specials)])
    cut = layout.split(jnp.asarray(tokens))
    assert (cut.cls is None) == (not has_cls)
    np.testing.assert_array_equal(cut.patches.reshape(2, 6, 4), tokens[:, layout.patches])
