"""What can a user choose? The options of every command, without importing anything heavy."""

import dataclasses
import functools
import math
from pathlib import Path
from typing import Any, Literal, TypeVar

from regvit_jax.errors import InputError

Protocol = Literal["official", "study"]
Feature = Literal["query", "key", "value"]
HeadChoice = Literal["both", "mean", "each"]
ProbedStream = Literal["normed", "last"]
OutlierDefinition = Literal[
    "quantile_98", "quantile_99_5", "mean_plus_3sd", "3_x_median", "absolute_150", "group"
]
AnalysisName = Literal["norms", "attention", "similarity", "probe", "reconstruction", "lost"]
Options = TypeVar("Options", bound="ImageOptions")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """What every analysis of images asks for."""

    checkpoint: tuple[Path, ...]
    """Checkpoint directories or training runs; all are analysed on the same images."""
    data: str
    """A folder of images or of class folders, a VOC root, a data set of TensorFlow Datasets that is
    prepared (cifar10, voc/2007, name@folder, or its folder), or "digits", the embedded one; or
    images: files, folders and patterns, one or several."""
    out: Path
    """Folder for results.json, tables and figures; appears only when everything is done."""
    split: str = "val"
    """Which part of the data, where it has parts: train, val, or another that it has."""
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
        for name in ("out", "overwrite"):
            del values[name]
        values["checkpoint"] = [str(path) for path in self.checkpoint]
        return values | self._contents

    def drawn(self) -> list[tuple[str, int]]:
        """The parts of the data, and how many images of each are drawn; 0 is all."""
        return [(self.split, self.num_images)]

    @functools.cached_property
    def _contents(self) -> dict[str, Any]:
        """What the checkpoints and the images are, whatever they are called."""
        from regvit_jax.analysis.engine.identity import images_of, weights_of

        splits, counts = zip(*self.drawn(), strict=True)
        return {
            "weights": [weights_of(path) for path in self.checkpoint],
            "images": images_of(self.data, splits, counts, self.seed),
        }


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
    rollout: bool = True
    """Also draw attention rollout (all blocks together) on the shown images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SimilarityOptions(ImageOptions):
    """Do outlier patches look like their neighbours?

    No single image is drawn: --num-shown and --show change nothing.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProbeOptions(ImageOptions):
    """What does each kind of token know of the image's class?

    The data have class folders, in "train" and "val"; without these, a random fifth of the images
    is held out for validation.
    """

    num_images: int = 0
    """Validation images, drawn at random when there are more; 0 is all."""
    num_train_images: int = 0
    """Training images, drawn at random when there are more; 0 is all."""
    features: ProbedStream = "normed"
    """Probe tokens after ("normed") or before ("last") the last LayerNorm."""
    outlier: OutlierDefinition = "quantile_98"
    """What an outlier patch is, by its norm before the last LayerNorm among all patches of the
    training images; "group" asks for a separate group of large norms, which may not exist."""
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
        if self.split != "val":
            raise InputError(
                "The probe learns on the training split and is tried on val: no other "
                "--split is possible."
            )
        for name, least in (("num_train_images", 0), ("draws", 1), ("num_strengths", 1)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least {least}, got {getattr(self, name)}.")
        if any(k < 1 for k in self.neighbours):
            raise InputError(f"--neighbours must be at least 1, got {self.neighbours}.")

    def drawn(self) -> list[tuple[str, int]]:
        return [("train", self.num_train_images), ("val", self.num_images)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionOptions(ImageOptions):
    """How much of its pixels and of its position does a patch token still hold?

    Probes learn on the training part of the data and are judged on the validation part; of data
    without parts, a fifth is set apart for judging.
    """

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
        if self.split != "val":
            raise InputError(
                "Probes learn on the training part and are judged on the validation part of the "
                "data; leave out --split."
            )
        if min(self.num_train_images, self.patches_per_image) < 0:
            raise InputError("--num-train-images and --patches-per-image must be 0 (all) or more.")
        if min(self.max_epochs, self.patience) < 1:
            raise InputError("--max-epochs and --patience must be at least 1.")
        if self.protocol == "study" and self.layer != -1:
            raise InputError("--protocol study reads the last block; leave out --layer.")

    def drawn(self) -> list[tuple[str, int]]:
        return [("train", self.num_train_images), ("val", self.num_images)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LostOptions(ImageOptions):
    """Where is an object, says the likeness of patches? LOST finds one box in each image.

    Of --feature, --layer and --gram-bias several values may be named: every combination is
    measured in the same pass, the first of each gives predictions and figures. What follows
    --gram-bias is by --protocol unless given; each of the study's faults can be switched.
    """

    split: str = "auto"
    """Which part of the data; "auto" is trainval for VOC, as in published figures, else val."""
    num_images: int = 0
    """Images to analyse, drawn at random when there are more; 0 is all."""
    feature: tuple[Feature, ...] = ()
    """Of the attention, heads side by side; values for DeiT, keys for DINO unless given."""
    layer: tuple[int, ...] = (-1,)
    """Block whose features are compared, from 0; -1 is the last."""
    k: int = 100
    """Patches of lowest degree that may join the seed."""
    gram_bias: tuple[float, ...] = ()
    """Added to all products of features: 0 in `official`, 0.05 in `study`."""
    centre_features: bool | None = None
    """Subtract the image's mean feature and scale to length 1 (`study`)."""
    frame: Literal["file", "crop"] | None = None
    """"file": full resolution, padded (`official`); "crop": what evaluation crops (`study`)."""
    drop_hard: bool | None = None
    """Leave out objects flagged as truncated or difficult (`study`)."""
    drop_empty: bool | None = None
    """Leave out annotated images without an object (`study`); else they have boxes, no score."""
    shift_far_corner: bool | None = None
    """Fault of the study: objects end a pixel early, on the right and below."""
    stretch_objects: bool | None = None
    """Fault of the study: objects are stretched to the crop, not cropped."""
    clip_to_file: bool | None = None
    """Fault of the study: boxes in the crop are clipped to the size of the file."""
    max_patches: int = 5000
    """Refuse images of more patches: a network's memory grows with the square of their number."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("k", "max_patches"):
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise InputError(f"--{option} must be at least 1, got {getattr(self, name)}.")
        if not self.layer:
            raise InputError("Name at least one block after --layer.")
        if not all(map(math.isfinite, self.gram_bias)):
            raise InputError(f"--gram-bias must be finite, got {self.gram_bias}.")
        if self.image_size is not None and self.resolved_frame == "file":
            raise InputError(
                "--image-size is the side of a square crop; --frame file takes images as they "
                "are. Add --frame crop."
            )

    def drawn(self) -> list[tuple[str, int]]:
        from regvit_jax.analysis.questions.lost.command import resolved_split

        return [(resolved_split(self), self.num_images)]

    @property
    def resolved_frame(self) -> Literal["file", "crop"]:
        """The frame, by protocol unless given."""
        return self.frame or ("crop" if self.protocol == "study" else "file")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllOptions:
    """Every analysis, the comparison and the page, each in a folder of `out`.

    Norms, attention and similarity share one pass of each model over the images; the others follow.
    What is not given is each analysis's own default. Stopped, the same command goes on where it
    was; analyses that are done are kept.
    """

    checkpoint: tuple[Path, ...]
    """Checkpoint directories or training runs; all are analysed on the same images."""
    data: str
    """As for every analysis: a folder, a VOC root, a prepared data set, images, or "digits"."""
    out: Path
    """Folder for norms, attention, ..., compare, and report.html."""
    skip: tuple[AnalysisName, ...] = ()
    """Analyses to leave out."""
    split: str | None = None
    """Which part of the data, where it has parts."""
    num_images: int | None = None
    """Images to analyse, drawn at random when there are more; 0 is all."""
    num_train_images: int | None = None
    """Images that probes learn from, drawn at random when there are more; 0 is all."""
    image_size: int | None = None
    """Side of the square input in pixels; the checkpoint's own unless given."""
    protocol: Protocol = "official"
    """As for every analysis."""
    batch_size: int | None = None
    """Images per step; more needs more memory."""
    skip_unreadable: bool = False
    """Leave out damaged images (they are counted and named) instead of stopping."""
    num_shown: int | None = None
    """Images in the figures, spread over the data."""
    show: tuple[str, ...] = ()
    """Show these images instead: file names, or parts of them."""
    bootstrap: int | None = None
    """Resamples of the images behind every 95 % interval."""
    seed: int = 0
    """Of the choice of images, the intervals, the probes and the random twin."""
    overwrite: bool = False
    """Replace results of another configuration in `out`; those of the same one are kept."""

    def __post_init__(self) -> None:
        self.of(NormsOptions, "norms")  # what no analysis can take is refused here
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
class CompareOptions:
    """One table and one page of figures for any number of models, from other commands' results."""

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
    """One self-contained HTML page from the results of other commands, and Markdown beside it."""

    results: tuple[Path, ...]
    """Result folders: what `--out` was in the other commands."""
    out: Path
    """The HTML file; the Markdown file beside it has the same name, and refers to the figures where
    they lie in the result folders."""
    runs: tuple[Path, ...] = ()
    """Training runs or checkpoint directories: accuracy and training curves."""
    title: str = "Registers in small vision transformers"
    """Heading of the page."""
