"""What can a user choose for `regvit-analyze similarity`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar

from regvit_jax.analysis.options import LabelOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityOptions(LabelOptions):
    """Do outlier patches look like their neighbours?

    No single image is drawn: --num-shown and --show change nothing.
    """

    rank: ClassVar[int] = 3
