"""What can a user choose for `regvit-analyze norms`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar

from regvit_jax.analysis.options import LabelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormsOptions(LabelOptions):
    """How large is each token in each layer, and are there outliers among the patches?"""

    rank: ClassVar[int] = 1

    twin: bool = True
    """Also analyse a randomly initialised model of each configuration, as a control."""
