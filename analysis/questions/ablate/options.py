"""What can a user choose for `regvit-analyze ablate`? Imports nothing heavy."""

import dataclasses
import functools
from typing import ClassVar

from regvit_jax.analysis.options import ProbingOptions
from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class AblateOptions(ProbingOptions):
    """What are CLS and the registers for? They are replaced, and what that costs is measured.

    After every block they become zeros, their mean over the images, noise of the same mean and
    variance, or those of another image; or the registers are dropped. Random patches are the
    control. Scores that need labels are left out where there are none.
    """

    rank: ClassVar[int] = 7

    num_train_images: int = 2000
    """Training images that nearest neighbours and the linear probe learn from, untouched."""
    control_patches: int = 4
    """Random patches of each image that are zeroed as a control."""
    neighbours: int = 20
    """Nearest neighbours that vote."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("control_patches", "neighbours"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least 1, got {getattr(self, name)}.")

    def drawn(self) -> list[tuple[str, int]]:
        return super().drawn() if self.has_labels else [(self.split, self.num_images)]

    @functools.cached_property
    def has_labels(self) -> bool:
        """Whether there are classes to tell, and images to learn them from."""
        from regvit_jax.analysis.engine.parts import open_labelled_parts

        try:
            open_labelled_parts(self)
        except InputError:
            return False
        return True
