"""What can a user choose for `regvit-analyze explore`? Imports nothing heavy."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from regvit_jax.analysis.look.options import check_photographs


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExploreOptions:
    """Your photographs and models as one HTML file to explore, token by token.

    Hover or tap a patch, CLS or a register: where it attends in each block and head, what attends
    to it, its norm through the blocks, and the patches most similar to it, models side by side. The
    file needs no network and no other file.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO ...")]
    """Photographs: files, folders, or patterns such as 'photos/*.jpg'; at most 8."""
    checkpoint: tuple[Path, ...]
    """Checkpoint directories or training runs."""
    out: Path | None = None
    """The HTML file. Not given: explore-NAME.html in the current folder, NAME being the first
    photograph's; explore-NAME-2.html where that is taken."""
    overwrite: bool = False
    """Replace `out`."""

    def __post_init__(self) -> None:
        check_photographs("explore", self.images, self.checkpoint)
