"""How is a forward pass changed while it runs? By an edit: what is replaced, which tokens come, go.

    Edit(tokens=lambda layer, x: x.at[:, layout.registers].set(0))

An edit is handed to `DeiT3.trace`. Its functions are called once for every block while the network
is traced, with the block's index and an array, and return what the network goes on with. Edits join
with `then`. What an edit does not name is computed as without it.

Letters: b images, t tokens, d width of a token, k heads, e width of a head, m units of an MLP.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from regvit_jax.config import AddedRegisters, ShiftRule
from regvit_jax.errors import InputError
from regvit_jax.rotary import Turn
from regvit_jax.tokens import TokenLayout

Change = Callable[[int, Array], Array]
"""From the index of a block, and what is computed there, to what takes its place."""


def _same(x: Array) -> Array:
    return x


class InBlock(NamedTuple):
    """What is changed inside one block: by default nothing."""

    value: Callable[[Array], Array] = _same
    attn_out: Callable[[Array], Array] = _same
    hidden: Callable[[Array], Array] = _same


UNCHANGED = InBlock()


@dataclasses.dataclass(frozen=True)
class Edit:
    """Changes of a forward pass; the trace has changed values everywhere but in `tokens`."""

    tokens: Change | None = None
    """The stream after a block, (b, t, d), before the next one reads it; the trace records what the
    block itself left."""
    value: Change | None = None
    """The values of the tokens, (b, k, t, e)."""
    attn_out: Change | None = None
    """What attention adds to the stream, (b, t, d), before LayerScale."""
    hidden: Change | None = None
    """Units of the MLP after the non-linearity, (b, t, m)."""
    added: int = 0
    """Tokens of zeros that enter the first block as further registers, without a position."""
    dropped: tuple[int, ...] = ()
    """Registers that never enter, by number."""

    def then(self, other: "Edit | Change | None") -> "Edit":
        """Both changes, this one first; `dropped` of both are numbers in the model itself."""
        other = as_edit(other) or Edit()
        joined = {name: _chain(getattr(self, name), getattr(other, name)) for name in _CHANGES}
        dropped = tuple(sorted({*self.dropped, *other.dropped}))
        return Edit(**joined, added=self.added + other.added, dropped=dropped)

    def inside(self, layer: int) -> InBlock:
        """What is changed inside one block."""
        return InBlock(*(_at(getattr(self, name), layer) for name in InBlock._fields))

    def after(self, layer: int, tokens: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """The stream that the next block reads."""
        return tokens if self.tokens is None else self.tokens(layer, tokens)

    def layout(self, layout: TokenLayout) -> TokenLayout:
        """Where tokens sit in the sequence that passes the blocks.

        Args:
          layout: Of the model without the edit.

        Raises:
          InputError: If a register is to be dropped that the model does not have.
        """
        count = layout.num_registers
        if bad := [i for i in self.dropped if not 0 <= i < count]:
            raise InputError(f"Register {bad[0]} cannot be dropped: the model has {count}, from 0.")
        return dataclasses.replace(layout, num_registers=count - len(self.dropped) + self.added)

    def enter(
        self, tokens: Float[Array, "b t d"], turn: Turn | None, layout: TokenLayout
    ) -> tuple[Float[Array, "b s d"], Turn | None]:
        """The sequence that enters the first block, and its rotation.

        Args:
          tokens: Of the model without the edit.
          turn: Their rotation.
          layout: Their layout.
        """
        if not (self.added or self.dropped):
            return tokens, turn
        registers = layout.registers
        gone = [registers.start + i for i in self.dropped]
        place = registers.stop - len(gone)  # of the added ones, once the dropped ones are gone
        tokens = jnp.delete(tokens, np.array(gone, int), axis=1)
        zeros = jnp.zeros((tokens.shape[0], self.added, tokens.shape[2]), tokens.dtype)
        tokens = jnp.concatenate([tokens[:, :place], zeros, tokens[:, place:]], axis=1)
        if turn is None:
            return tokens, None
        still = {"cos": 1.0, "sin": 0.0}
        rows = {
            name: np.insert(
                np.delete(getattr(turn, name), gone, axis=0), [place] * self.added, angle, axis=0
            )
            for name, angle in still.items()
        }
        return tokens, turn._replace(**rows)


_CHANGES = ("tokens", *InBlock._fields)


def as_edit(edit: Edit | Change | None) -> Edit | None:
    """An edit; a plain function `edit(layer, tokens)` changes the stream after each block."""
    return edit if edit is None or isinstance(edit, Edit) else Edit(tokens=edit)


def zero_units(units: Bool[Any, "l m"]) -> Edit:
    """Some hidden units are silent in all tokens.

    Args:
      units: Which, by block. If this is a NumPy array, blocks without one cost nothing.
    """

    def hidden(layer: int, x: Float[Array, "b t m"]) -> Float[Array, "b t m"]:
        return jnp.where(_chosen(units, layer), 0.0, x) if _has_any(units, layer) else x

    return Edit(hidden=hidden)


def shift_units(
    layout: TokenLayout, units: Bool[Any, "l m"], number: int = 1, rule: ShiftRule = "paper"
) -> Edit:
    """Test-time registers: what some hidden units do is done in added tokens alone.

    By the rule "paper", each unit has in every added token the largest value that it has in any
    token, and 0 elsewhere. By "released", the rule of the authors' code, all units of a block share
    one value there, of those of the units that is furthest from 0, and keep theirs in CLS.

    Reference: Jiang et al., Vision Transformers Don't Need Trained Registers, arXiv:2506.08010,
    algorithm 2.

    Args:
      layout: Of the model without the added tokens.
      units: Which, by block. If this is a NumPy array, blocks without one cost nothing.
      number: Added tokens.
      rule: What the added tokens get.
    """
    place = np.arange(layout.num_tokens + number)[None, :, None]
    is_added = (place >= layout.registers.stop) & (place < layout.registers.stop + number)
    is_left = np.zeros_like(is_added)
    if rule == "released" and layout.cls is not None:
        is_left[:, layout.cls] = True

    def hidden(layer: int, x: Float[Array, "b t m"]) -> Float[Array, "b t m"]:
        if not _has_any(units, layer):
            return x
        chosen = _chosen(units, layer)
        if rule == "paper":
            moved = x.max(axis=1, keepdims=True)
        else:
            of_units = jnp.where(chosen, x, 0.0)
            high, low = (f(of_units, axis=(1, 2), keepdims=True) for f in (jnp.max, jnp.min))
            moved = jnp.where(high >= -low, high, low)
        return jnp.where(chosen & ~is_left, jnp.where(is_added, moved, 0.0), x)

    return Edit(hidden=hidden, added=number)


def with_own(
    added: AddedRegisters | None,
    layout: TokenLayout,
    mlp_shape: tuple[int, int],
    edit: Edit | Change | None,
) -> Edit | None:
    """The edit that a model's configuration asks for in every forward pass, then the caller's.

    Args:
      added: Of the configuration.
      layout: Of the learned tokens.
      mlp_shape: Blocks, and hidden units of each.
      edit: The caller's.
    """
    edit = as_edit(edit)
    if added is None:
        return edit
    remaining = layout if edit is None else Edit(dropped=edit.dropped).layout(layout)
    units = np.zeros(mlp_shape, bool)
    units[tuple(np.array(added.units).T)] = True
    return shift_units(remaining, units, added.number, added.rule).then(edit)


def _chain(first: Change | None, second: Change | None) -> Change | None:
    if first is None or second is None:
        return first or second
    return lambda layer, x: second(layer, first(layer, x))


def _at(change: Change | None, layer: int) -> Callable[[Array], Array]:
    return _same if change is None else lambda x: change(layer, x)


def _has_any(units: Bool[Any, "l m"], layer: int) -> bool:
    return not isinstance(units, np.ndarray) or bool(units[layer].any())


def _chosen(units: Bool[Any, "l m"], layer: int) -> Bool[Array, "1 1 m"]:
    return jnp.asarray(units[layer])[None, None]
