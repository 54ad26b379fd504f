"""What can a user choose? The options of every command, without importing anything heavy."""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import tyro

from regvit_jax.errors import InputError

Protocol = Literal["official", "study"]
VERDICT, LAST = "verdict", "last"
"""Layers that `--outlier-layer` names by a word."""
FigureUse = Literal["screen", "paper"]
Options = TypeVar("Options", bound="ImageOptions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What every analysis of images asks for."""

    rank: ClassVar[int] = 100
    """Place of the analysis among the others: on the page, in the help, in `all`."""

    checkpoint: tuple[Path, ...]
    """Checkpoint directories, training runs, or models that come with the package (organism-reg0,
    organism-reg4); all are analysed on the same images."""
    data: str
    """A folder of images or of class folders, a VOC root, a prepared data set of TensorFlow
    Datasets (cifar10, voc/2007, name@folder, or its folder), an embedded one ("digits", "cues"), or
    images: one or more files, folders and patterns."""
    out: Path
    """Output folder for results.json, tables and figures; it appears once everything is done."""
    split: str = "val"
    """Split of the data, where it has splits: train, val, or another."""
    num_images: int = 1000
    """Images to analyse, drawn at random when there are more; 0 is all."""
    image_size: int | None = None
    """Side of the square input in pixels; by default, the checkpoint's own."""
    protocol: Protocol = "official"
    """"official": the field's practice, on images prepared as in the checkpoint's evaluation;
    "study": what the study's notebook did, errors included."""
    batch_size: int = 32
    """Images per batch; larger batches need more memory."""
    skip_unreadable: bool = False
    """Skip damaged images, which are counted and named, instead of stopping."""
    num_shown: int = 4
    """Number of images in the figures, spread over the data."""
    show: tuple[str, ...] = ()
    """Show these images instead: file names or parts of them."""
    figures: FigureUse = "screen"
    """"paper" writes each figure as PDF too: without its title, as wide as one or two columns."""
    bootstrap: int = 1000
    """Bootstrap resamples of the images for each 95 % interval."""
    seed: int = 0
    """Seed of the choice of images, the intervals and the random twin."""
    overwrite: bool = False
    """Replace results of another configuration in `out`."""
    dry_run: bool = False
    """Only report which passes over the images are needed, how long they take and how much disk
    space they need, from a few measured batches."""

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
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed must be in [0, 2^31), got {self.seed}.")
        if self.image_size is not None and self.image_size < 1:
            raise InputError(f"--image-size must be at least 1 px, got {self.image_size}.")

    def configuration(self) -> dict[str, Any]:
        """The options that results depend on, as JSON; where they are written is not one.

        Raises:
          InputError: If a checkpoint is none, or there are no images.
        """
        values = dataclasses.asdict(self)
        for name in ("out", "overwrite", "dry_run"):
            del values[name]
        values["checkpoint"] = [str(path) for path in self.checkpoint]
        if self.figures == "screen":
            del values["figures"]
        return values | self._contents

    def drawn(self) -> list[tuple[str, int]]:
        """The parts of the data, and how many images of each are drawn; 0 is all."""
        return [(self.split, self.num_images)]

    def contents_of(self, part: str) -> str:
        """A checksum of the images that are drawn from a part of the data."""
        return self._images[part]

    @functools.cached_property
    def _contents(self) -> dict[str, Any]:
        """What the checkpoints and the images are, whatever they are called."""
        from regvit_jax.analysis.engine.identity import weights_of

        return {
            "weights": [weights_of(path) for path in self.checkpoint],
            "images": list(self._images.values()),
        }

    @functools.cached_property
    def _images(self) -> dict[str, str]:
        """By part of the data, a checksum of the images that are drawn from it."""
        from regvit_jax.analysis.engine.identity import images_of

        return {part: images_of(self.data, part, count, self.seed) for part, count in self.drawn()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOptions(ImageOptions):
    """What every analysis asks for that tells outliers from other patches."""

    outlier_layer: str = VERDICT
    """Where norms tell outliers: "verdict", the layer where the verdict finds them furthest out
    (where it finds none, the last block's); "last"; or the number of a block, from 0."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.outlier_layer not in (VERDICT, LAST) and self.outlier_block is None:
            raise InputError(
                f"--outlier-layer is {VERDICT}, {LAST} or the number of a block, not "
                f"{self.outlier_layer!r}."
            )

    @property
    def outlier_block(self) -> int | None:
        """The block that is named by its number; negative ones count from the last."""
        try:
            return int(self.outlier_layer)
        except ValueError:
            return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbingOptions(LabelOptions):
    """What every analysis asks for whose probes learn on other images than they are judged on."""

    num_train_images: int = 0
    """Training images, drawn at random when there are more; 0 is all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split != "val":
            raise InputError(
                "Probes learn on the training part and are judged on the validation part of the "
                "data; leave out --split."
            )
        if self.num_train_images < 0:
            raise InputError(
                f"--num-train-images must be 0 (all) or more, got {self.num_train_images}."
            )

    def drawn(self) -> list[tuple[str, int]]:
        return [("train", self.num_train_images), ("val", self.num_images)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllOptions:
    """Every analysis, the comparison and the page, each in a folder of `out`.

    All share one pass of each model over the same split. Options that are not given have each
    analysis's own default. If stopped, rerun the same command to resume; finished analyses are
    kept.
    """

    checkpoint: tuple[Path, ...]
    """Checkpoint directories, training runs, or models that come with the package (organism-reg0,
    organism-reg4); all are analysed on the same images."""
    data: str
    """As for every analysis: a folder, a VOC root, a prepared or an embedded data set, images."""
    out: Path
    """Folder for norms, attention, ..., compare, and report.html."""
    skip: tuple[str, ...] = ()
    """Analyses to leave out, by name."""
    split: str | None = None
    """Which part of the data, where it has parts."""
    num_images: int | None = None
    """Images to analyse, drawn at random when there are more; 0 is all."""
    num_train_images: int | None = None
    """Images that probes learn from, drawn at random when there are more; 0 is all."""
    image_size: int | None = None
    """Side of the square input in pixels; by default, the checkpoint's own."""
    protocol: Protocol = "official"
    """As for every analysis."""
    outlier_layer: str | None = None
    """Where norms tell outliers: "verdict", "last", or the number of a block."""
    batch_size: int | None = None
    """Images per batch; larger batches need more memory."""
    skip_unreadable: bool = False
    """Skip damaged images, which are counted and named, instead of stopping."""
    num_shown: int | None = None
    """Number of images in the figures, spread over the data."""
    show: tuple[str, ...] = ()
    """Show these images instead: file names or parts of them."""
    figures: FigureUse = "screen"
    """As for every analysis: "paper" writes each figure as PDF too."""
    bootstrap: int | None = None
    """Bootstrap resamples of the images for each 95 % interval."""
    seed: int = 0
    """Seed of the choice of images, the intervals, the probes and the random twin."""
    overwrite: bool = False
    """Replace results of another configuration in `out`; those of the same one are kept."""
    dry_run: bool = False
    """As for every analysis: only say what there is to do, and how long it takes."""

    def __post_init__(self) -> None:
        self.of(ImageOptions, "all")  # what no analysis can take is refused here
        from regvit_jax.analysis.questions import known

        if unknown := sorted(set(self.skip) - known().keys()):
            raise InputError(
                f"--skip {unknown[0]}: no such analysis; there are {', '.join(known())}."
            )
        if self.out.is_file():
            raise InputError(f"{self.out} is a file; --out names a folder.")

    def of(self, kind: type[Options], name: str) -> Options:
        """The options of one analysis.

        Raises:
          InputError: If it cannot be asked this.
        """
        names = {field.name for field in dataclasses.fields(kind)}
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values["out"] = self.out / name
        return kind(**{k: v for k, v in values.items() if k in names and v is not None})


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions(ImageOptions):
    """Your own analysis: a Python file that defines an `Analysis`; docs/extend.md shows one.

    Options of its own follow the file: `regvit-analyze run FILE --help` lists them.
    """

    file: tyro.conf.Positional[Path]
    """The Python file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompareOptions:
    """One table and one figure comparing any number of models, from other commands' results."""

    results: tuple[Path, ...]
    """Result folders: what `--out` was in the other commands."""
    out: Path
    """Folder for results.json, compare.csv and the figure."""
    overwrite: bool = False
    """Replace a comparison of other folders in `out`."""

    def __post_init__(self) -> None:
        if not self.results:
            raise InputError("Name at least one result folder after --results.")

    def configuration(self) -> dict[str, Any]:
        """What the comparison depends on, as JSON."""
        return {"results": [str(path) for path in self.results]}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """A self-contained HTML report, and a Markdown one, from the results of other commands."""

    results: tuple[Path, ...]
    """Result folders: what `--out` was in the other commands."""
    out: Path
    """The HTML file; the Markdown file beside it has the same name, and refers to the figures where
    they lie in the result folders."""
    runs: tuple[Path, ...] = ()
    """Training runs or checkpoint directories: accuracy and training curves."""
    title: str = "Registers in small vision transformers"
    """Heading of the page."""
