"""Where does each kind of token sit in the sequence? The only place that knows the order."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from jaxtyping import Array, Float, Shaped

from regvit_jax.errors import InputError

AnyArray = TypeVar("AnyArray", Array, np.ndarray)


class Tokens(NamedTuple):
    """A sequence cut into its three kinds of token."""

    cls: Float[Array, "b d"] | None
    """None in a model without a CLS token."""
    registers: Float[Array, "b r d"]
    patches: Float[Array, "b gh gw d"]


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """The order of a sequence: CLS, registers, then patches row by row.

    Some models have no CLS token; in some, the registers follow the patches.
    """

    num_registers: int
    grid: tuple[int, int]
    """Rows and columns of patches."""
    has_cls: bool = True
    registers_last: bool = False

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> int:
        return self.num_specials + self.num_patches

    @property
    def cls(self) -> slice | None:
        """None in a model without a CLS token."""
        return slice(0, 1) if self.has_cls else None

    @property
    def registers(self) -> slice:
        start = self.has_cls + (self.num_patches if self.registers_last else 0)
        return slice(start, start + self.num_registers)

    @property
    def patches(self) -> slice:
        start = self.has_cls + (0 if self.registers_last else self.num_registers)
        return slice(start, start + self.num_patches)

    @property
    def num_specials(self) -> int:
        """How many tokens are no patches."""
        return self.has_cls + self.num_registers

    @property
    def specials(self) -> tuple[int, ...]:
        """Places of the tokens that are no patches, in the order of `special_names`."""
        registers = range(self.registers.start, self.registers.stop)
        return (0, *registers) if self.has_cls else tuple(registers)

    @property
    def special_names(self) -> tuple[str, ...]:
        """CLS, then the registers by number."""
        names = (f"register {i}" for i in range(self.num_registers))
        return ("CLS", *names) if self.has_cls else tuple(names)

    def special(self, tokens: Shaped[AnyArray, "*b t d"]) -> Shaped[AnyArray, "*b q d"]:
        """The tokens that are no patches, CLS first; a view where they stand together.

        Args:
          tokens: Of a whole sequence, in the last axis but one.
        """
        if self.registers_last and self.has_cls:
            return tokens[..., np.array(self.specials), :]
        start = self.registers.start - self.has_cls
        return tokens[..., start : start + self.num_specials, :]

    def split(self, tokens: Float[Array, "b t d"]) -> Tokens:
        """The CLS token, the registers and the grid of patches of a sequence.

        Raises:
          InputError: If the sequence has another number of tokens than the layout.
        """
        if tokens.shape[1] != self.num_tokens:
            rows, cols = self.grid
            raise InputError(
                f"Expected {self.num_tokens} tokens ({'1 CLS + ' if self.has_cls else ''}"
                f"{self.num_registers} registers + {rows} x {cols} patches), got "
                f"{tokens.shape[1]}. Does the layout come from this model and image size?"
            )
        patches = tokens[:, self.patches]
        return Tokens(
            cls=tokens[:, 0] if self.has_cls else None,
            registers=tokens[:, self.registers],
            patches=patches.reshape(tokens.shape[0], *self.grid, tokens.shape[2]),
        )


def resolve_layers(layers: int | Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """Block indices from 0: None is every block, n the last n, negatives count from the end.

    Raises:
      InputError: If a block does not exist.
    """
    if layers is None:
        return tuple(range(depth))
    if isinstance(layers, int):
        if not 0 <= layers <= depth:
            raise InputError(f"No such blocks in a model of depth {depth}: the last {layers}.")
        return tuple(range(depth - layers, depth))
    resolved = tuple(i + depth if i < 0 else i for i in layers)
    if bad := [given for given, i in zip(layers, resolved, strict=True) if not 0 <= i < depth]:
        raise InputError(
            f"No such blocks in a model of depth {depth}: layer {', '.join(map(str, bad))}. "
            f"Expected 0 to {depth - 1}, or {-depth} to -1 counted from the end."
        )
    return resolved
