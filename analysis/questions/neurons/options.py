"""What can a user choose for `regvit-analyze neurons`? Imports nothing heavy."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from regvit_jax.analysis.options import ImageOptions
from regvit_jax.errors import InputError

Rule = Literal["paper", "released"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeuronsOptions(ImageOptions):
    """Which hidden units write the outliers, and do test-time registers take them over?

    The units whose activation is largest at outlier patches are shifted to added tokens, so many of
    them as it takes; controls are random units, and silence instead of the shift. Where a model has
    no outlier tokens, there is nothing to find.
    """

    rank: ClassVar[int] = 8

    units: tuple[int, ...] = (1, 2, 5, 10, 20, 50)
    """How many units are shifted: each is tried, and the least that will do is chosen."""
    added: int = 1
    """Test-time registers: tokens that are added."""
    rule: Rule = "paper"
    """"paper": algorithms 1 and 2 of arXiv:2506.08010; "released": as the authors' code does."""
    top_block: int | None = None
    """The last block whose units may be chosen, from 0; unless given, the first with outliers."""
    save: Path | None = None
    """Folder in which each model is saved with its test-time registers, as a checkpoint called
    MODEL+test-time-registers."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.units or min(self.units) < 1:
            raise InputError(f"--units must be numbers from 1 on, got {self.units}.")
        if self.added < 1:
            raise InputError(f"--added must be at least 1, got {self.added}.")
