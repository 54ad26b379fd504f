"""What can a user choose for `regvit-analyze sinks`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar

from regvit_jax.analysis.options import ImageOptions
from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SinksOptions(ImageOptions):
    """Which tokens draw attention, and do they say anything? Head by head and block by block.

    A token that is looked at much and has small values is a place for attention to rest; one with
    large values broadcasts. What CLS takes from each kind of token is weight times value, through
    the projection.
    """

    rank: ClassVar[int] = 9

    sink: float = 0.3
    """A head has a sink where a kind of token gets at least this share of all attention."""
    no_op: float = 0.5
    """A sink is a no-op where its values are at most so large as those of ordinary patches."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sink", "no_op"):
            if not 0 < getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be above 0 and below 1.")
