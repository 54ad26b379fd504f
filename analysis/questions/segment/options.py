"""What can a user choose for `regvit-analyze segment`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar, Literal

from regvit_jax.analysis.options import ProbingOptions
from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentOptions(ProbingOptions):
    """How well do patches tell what they show? A linear classifier, and the map of CLS alone.

    The data have masks: a Pascal VOC root with SegmentationClass, or "digits" and "cues". A patch
    is of the class that most of its pixels are of.
    """

    rank: ClassVar[int] = 10

    num_train_images: int = 1000
    """Training images, drawn at random when there are more; 0 is all."""
    patches_per_image: int = 16
    """Random patches of each training image that the classifier learns from."""
    features: Literal["normed", "last"] = "normed"
    """Patches after ("normed") or before ("last") the last LayerNorm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patches_per_image < 1:
            raise InputError(
                f"--patches-per-image must be at least 1, got {self.patches_per_image}."
            )
