"""What can a user choose for `regvit-analyze reconstruction`? Imports nothing heavy."""

import dataclasses
from pathlib import Path
from typing import ClassVar

from regvit_jax.analysis.options import ProbingOptions
from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(ProbingOptions):
    """How much pixel and position information do patch tokens retain?

    Probes are trained on the training split and evaluated on the validation split; data without
    splits have a fifth held out for evaluation.
    """

    rank: ClassVar[int] = 6

    layer: int = -1
    """Block whose output the probes read, from 0; -1 is the last."""
    num_train_images: int = 2000
    """Training images, drawn at random when there are more; 0 is all."""
    patches_per_image: int = 49
    """Random patches of each training image that the MLP and the position probe learn from; 0 is
    all. The linear probe to pixels always learns from all."""
    mlp: bool = True
    """Also train the non-linear probe to pixels."""
    probe: Path | None = None
    """An `.npz` file with a trained non-linear probe (`regvit-convert import` makes one of the
    study's), used instead of training one."""
    max_epochs: int = 200
    """Epochs after which a probe stops learning, if it has not stopped early."""
    patience: int = 5
    """Epochs without a better score after which a probe stops learning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patches_per_image < 0:
            raise InputError("--patches-per-image must be 0 (all) or more.")
        if min(self.max_epochs, self.patience) < 1:
            raise InputError("--max-epochs and --patience must be at least 1.")
        if self.protocol == "study" and self.layer != -1:
            raise InputError("--protocol study reads the last block; leave out --layer.")
