"""What can a user choose for `regvit-analyze look`? Imports nothing heavy."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookOptions:
    """Your photographs through your models, in seconds: a picture (PNG) and a page (HTML).

    Norms by layer, attention of CLS and the registers, features as colours, and the patches whose
    norms are far out, models one below the other.
    """

    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="PHOTO ...")]
    """Photographs: files, folders, or patterns such as 'photos/*.jpg'."""
    checkpoint: tuple[Path, ...]
    """Checkpoint directories or training runs."""
    out: Path | None = None
    """Folder for the files. Not given: look-NAME in the current folder, NAME being the first
    photograph's; look-NAME-2 where that is taken."""
    overwrite: bool = False
    """Replace the pictures and the page in `out`."""

    def __post_init__(self) -> None:
        check_photographs("look", self.images, self.checkpoint)


def check_photographs(command: str, images: Sequence[str], checkpoints: Sequence[Path]) -> None:
    """Raises unless there are photographs and checkpoints, each in its place.

    Raises:
      InputError: Says what to name where.
    """
    from regvit_jax.images import SUFFIXES

    if misplaced := [path for path in checkpoints if path.suffix.lower() in SUFFIXES]:
        raise InputError(
            f"{misplaced[0]} is an image, not a checkpoint. Name photographs before --checkpoint."
        )
    if not images:
        raise InputError(
            f"Name a photograph: regvit-analyze {command} photo.jpg --checkpoint runs/reg4."
        )
    if not checkpoints:
        raise InputError("Name at least one checkpoint directory after --checkpoint.")
