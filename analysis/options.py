"""What can a user choose? The options of every command, without importing anything heavy."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from regvit_jax.errors import InputError

Protocol = Literal["official", "study"]
HeadChoice = Literal["both", "mean", "each"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What every analysis of images asks for."""

    checkpoint: tuple[Path, ...]
    """Checkpoint directories or training runs; all are analysed on the same images."""
    data: str
    """A folder of images, or of class folders; or "digits", the embedded data set."""
    out: Path
    """Folder for results.json, tables and figures; appears only when everything is done."""
    split: Literal["train", "val"] = "val"
    """Which part of the data, where it has parts."""
    num_images: int = 1000
    """Images to analyse, drawn at random when there are more; 0 is all."""
    image_size: int | None = None
    """Side of the square input in pixels; the checkpoint's own unless given."""
    protocol: Protocol = "official"
    """"official": the field's right computation, on the pixels of the checkpoint's evaluation;
    "study": what the study's notebook of this question did, faults included."""
    batch_size: int = 32
    """Images per step; more needs more memory."""
    skip_unreadable: bool = False
    """Leave out damaged images (they are counted and named) instead of stopping."""
    num_shown: int = 4
    """Images in the figures, spread over the data."""
    show: tuple[str, ...] = ()
    """Show these images instead: file names, or parts of them."""
    bootstrap: int = 1000
    """Resamples of the images behind every 95 % interval."""
    seed: int = 0
    """Of the choice of images, the intervals and the random twin."""
    overwrite: bool = False
    """Replace results of another configuration in `out`."""

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise InputError("Name at least one checkpoint directory after --checkpoint.")
        if self.num_images < 0:
            raise InputError(f"--num-images must be 0 (all) or more, got {self.num_images}.")
        if self.batch_size < 1:
            raise InputError(f"--batch-size must be at least 1, got {self.batch_size}.")
        if self.num_shown < 1:
            raise InputError(f"--num-shown must be at least 1, got {self.num_shown}.")
        if self.bootstrap < 100:
            raise InputError(f"--bootstrap needs at least 100 resamples, got {self.bootstrap}.")
        if self.seed < 0:
            raise InputError(f"--seed must be 0 or more, got {self.seed}.")

    def configuration(self) -> dict[str, Any]:
        """The options that results depend on, as JSON; where they are written is not one."""
        values = dataclasses.asdict(self)
        for name in ("out", "overwrite"):
            del values[name]
        values["checkpoint"] = [str(path) for path in self.checkpoint]
        return values


@dataclasses.dataclass(frozen=True, kw_only=True)
class NormsOptions(ImageOptions):
    """How large is each token in each layer, and are there outliers among the patches?"""

    twin: bool = True
    """Also analyse a randomly initialised model of each configuration, as a control."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttentionOptions(ImageOptions):
    """Where do CLS and the registers look?"""

    layer: int = -1
    """Block whose maps are drawn, from 0; -1 is the last."""
    heads: HeadChoice = "both"
    """Draw the mean over the heads, each head, or both."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityOptions(ImageOptions):
    """Do outlier patches look like their neighbours? (They have no pictures of single images.)"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """One self-contained HTML page from the results of other commands."""

    results: tuple[Path, ...]
    """Result folders: what `--out` was in the other commands."""
    out: Path
    """The HTML file."""
    runs: tuple[Path, ...] = ()
    """Training runs or checkpoint directories: accuracy and training curves."""
    title: str = "Registers in small vision transformers"
    """Heading of the page."""
