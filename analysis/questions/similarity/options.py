"""What can a user choose for `regvit-analyze similarity`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar

from regvit_jax.analysis.options import ImageOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityOptions(ImageOptions):
    """Do outlier patches look like their neighbours?

    No single image is drawn: --num-shown and --show change nothing.
    """

    rank: ClassVar[int] = 3
