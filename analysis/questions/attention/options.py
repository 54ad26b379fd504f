"""What can a user choose for `regvit-analyze attention`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar, Literal

from regvit_jax.analysis.options import LabelOptions

HeadChoice = Literal["both", "mean", "each"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOptions(LabelOptions):
    """Where do CLS and the registers look?"""

    rank: ClassVar[int] = 2

    layer: int = -1
    """Block whose maps are drawn, from 0; -1 is the last."""
    heads: HeadChoice = "both"
    """Draw the mean over the heads, each head, or both."""
    rollout: bool = True
    """Also draw attention rollout (all blocks together) on the shown images."""
