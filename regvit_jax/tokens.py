"""Where does each kind of token sit in the sequence? The only place that knows the order."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Array, Float

from regvit_jax.errors import InputError


class Tokens(NamedTuple):
    """A sequence cut into its three kinds of token."""

    cls: Float[Array, "b d"]
    registers: Float[Array, "b r d"]
    patches: Float[Array, "b gh gw d"]


@dataclasses.dataclass(frozen=True)
class TokenLayout:
    """The order of a sequence: CLS, registers, then patches row by row."""

    num_registers: int
    grid: tuple[int, int]
    """Rows and columns of patches."""

    @property
    def num_patches(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def num_tokens(self) -> int:
        return 1 + self.num_registers + self.num_patches

    @property
    def cls(self) -> slice:
        return slice(0, 1)

    @property
    def registers(self) -> slice:
        return slice(1, 1 + self.num_registers)

    @property
    def patches(self) -> slice:
        return slice(1 + self.num_registers, self.num_tokens)

    def split(self, tokens: Float[Array, "b t d"]) -> Tokens:
        """The CLS token, the registers and the grid of patches of a sequence.

        Raises:
          InputError: If the sequence has another number of tokens than the layout.
        """
        if tokens.shape[1] != self.num_tokens:
            rows, cols = self.grid
            raise InputError(
                f"Expected {self.num_tokens} tokens (1 CLS + {self.num_registers} registers + "
                f"{rows} x {cols} patches), got {tokens.shape[1]}. Does the layout come from this "
                "model and image size?"
            )
        patches = tokens[:, self.patches]
        return Tokens(
            cls=tokens[:, 0],
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
