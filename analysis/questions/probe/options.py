"""What can a user choose for `regvit-analyze probe`? Imports nothing heavy."""

import dataclasses
from typing import ClassVar, Literal

from regvit_jax.analysis.options import ProbingOptions
from regvit_jax.errors import InputError

ProbedStream = Literal["normed", "last"]
OutlierDefinition = Literal[
    "verdict",
    "group",
    "quantile_98",
    "quantile_99_5",
    "mean_plus_3sd",
    "3_x_median",
    "absolute_150",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions(ProbingOptions):
    """How well does each token type predict the image's class?

    The data need class folders, in "train" and "val"; without these two, a random fifth of the
    images is held out for validation.
    """

    rank: ClassVar[int] = 5

    num_images: int = 0
    """Validation images, drawn at random when there are more; 0 is all."""
    features: ProbedStream = "normed"
    """Probe tokens after ("normed") or before ("last") the last LayerNorm."""
    outlier: OutlierDefinition = "verdict"
    """What an outlier patch is, by its norm among all patches of the training images: "verdict",
    the separate group that the verdict finds, or else the largest 2 %; "group", the group alone."""
    without_outlier: Literal["skip", "largest"] = "skip"
    """Images without an outlier: leave them out of that probe, or take their largest patch."""
    draws: int = 5
    """How often random patches are drawn."""
    num_strengths: int = 45
    """Strengths C to choose from, between 1e-6 and 1e5."""
    neighbours: tuple[int, ...] = (10, 20, 100, 200)
    """Numbers of nearest neighbours to choose from; none leaves this probe out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("draws", "num_strengths"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least 1, got {getattr(self, name)}.")
        if any(k < 1 for k in self.neighbours):
            raise InputError(f"--neighbours must be at least 1, got {self.neighbours}.")
