"""Which models are analysed, and on which images? Checkpoints opened under short, unlike names."""

import dataclasses
import functools
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from regvit_jax.analysis.options import ImageOptions
from regvit_jax.analysis.spoken import shown
from regvit_jax.checkpoint import (
    MODEL_FOLDER,
    CheckpointInfo,
    Params,
    load,
    parameter_shapes,
    read_info,
    resolve,
)
from regvit_jax.config import ViTConfig, variant_name
from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.model import DeiT3, init_params
from regvit_jax.preprocess import STUDY_PREPROCESS, Preprocess
from regvit_jax.source import Source, composed

_SLUG_LETTERS = 100
_TWIN = " untrained"


@dataclasses.dataclass(frozen=True)
class Subject:
    """One model under analysis."""

    label: str
    """Short and unlike the others'; figures and tables call the model so."""
    path: Path
    info: CheckpointInfo
    preprocess: Preprocess
    is_twin: bool = False
    """A randomly initialised model of the checkpoint's configuration."""

    @property
    def config(self) -> ViTConfig:
        return self.info.model

    @property
    def title(self) -> str:
        """The label with what matters most here: the number of registers."""
        count = self.config.num_registers
        added = f" + {self.config.added.number} at test time" if self.config.added else ""
        return f"{self.label} ({count} register{'' if count == 1 else 's'}{added})"

    @property
    def slug(self) -> str:
        """The label as part of a file name, unlike those of other labels."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "-", self.label)[:_SLUG_LETTERS]
        if plain == self.label:
            return plain
        return f"{plain}-{zlib.crc32(self.label.encode(errors='surrogateescape')):08x}"

    def load(self, seed: int) -> tuple[DeiT3, Params]:
        """The network and its parameters; a twin's are drawn with the seed."""
        if not self.is_twin:
            return load(self.path)
        model = DeiT3(self.config)
        return model, init_params(model, jax.random.key(seed))

    def twin(self) -> "Subject":
        """The randomly initialised model of the same configuration, on the same pixels."""
        return dataclasses.replace(self, label=f"{self.label}{_TWIN}", is_twin=True)

    def to_json(self) -> dict[str, Any]:
        """What identifies the model in results."""
        return {
            "label": self.label,
            "title": self.title,
            "checkpoint": str(self.path),
            "is_twin": self.is_twin,
            "variant": variant_name(self.config),
            "num_registers": self.config.num_registers,
            "model": dataclasses.asdict(self.config),
            "num_parameters": count_parameters(self.config),
            "source": {"kind": "random initialisation"} if self.is_twin else dict(self.info.source),
            "metrics": {} if self.is_twin else dict(self.info.metrics),
            "preprocess": dataclasses.asdict(self.preprocess),
        }


class Images(NamedTuple):
    """Some images of a source, in order."""

    place: tuple[str, str]
    """Where the source was opened: the data, and the part of it. Equal places, equal sources."""
    source: Source
    indices: Int[np.ndarray, " n"]

    def only(self, indices: Int[np.ndarray, " m"]) -> "Images":
        """Other images of the same source."""
        return self._replace(indices=indices)

    def named(self, index: int) -> str:
        """The file name of an image, without its folders."""
        return self.source.file_names[index].split("/")[-1]


def open_subjects(options: ImageOptions, question: str) -> list[Subject]:
    """The checkpoints of a command, in the order named; nothing large is read yet.

    Args:
      options: The command's.
      question: Key of `STUDY_PREPROCESS`, for `--protocol study`.

    Raises:
      InputError: If one is no checkpoint, or the image size does not fit its patches.
    """
    paths = [resolve(path) for path in options.checkpoint]
    if len(set(paths)) < len(paths):
        raise InputError("The same checkpoint is named twice after --checkpoint.")
    labels = short_labels(paths)
    for twin in {f"{label}{_TWIN}" for label in labels}.intersection(labels):
        raise InputError(
            f"The checkpoint {twin!r} has the name of another one's untrained twin. "
            "Rename its folder."
        )
    subjects = []
    for path, label in zip(paths, labels, strict=True):
        info = read_info(path)
        preprocess = _preprocess(info, options, question)
        # Asked here so that a size that does not fit ends the command before any work.
        DeiT3(info.model).layout((preprocess.height, preprocess.width, 3))
        if info.model.num_channels != 3:
            raise InputError(
                f"{label} takes images of {info.model.num_channels} channels; the analyses show it "
                "pictures, which have 3."
            )
        subjects.append(Subject(label, path, info, preprocess))
    return subjects


def short_labels(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart; a run's "model" folder is left out.

    A number alone is no name: the stages of a run are "epochs/0", "epochs/19".
    """
    parts = [p.parent.parts if p.name == MODEL_FOLDER else p.parts for p in paths]
    for length in range(1, max(map(len, parts)) + 1):
        labels = [shown("/".join(part[-length:])) for part in parts]
        if len(set(labels)) == len(labels) and not any(label.isdecimal() for label in labels):
            return labels
    return [shown(str(path)) for path in paths]


def choose_images(options: ImageOptions) -> tuple[Source, Int[np.ndarray, " n"]]:
    """The source of images, and which of them are analysed: in order, the same for all models.

    Raises:
      InputError: If there are none.
    """
    source = open_source(options.data, options.split)
    return source, some_of(np.arange(len(source)), options.num_images, options.seed)


def open_images(options: ImageOptions) -> Images:
    """The images that are analysed: in order, the same for all models.

    Raises:
      InputError: If there are none.
    """
    source, indices = choose_images(options)
    return Images((str(options.data), options.split), source, indices)


def some_of(indices: Int[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " m"]:
    """So many of the images at random, in order; all where `count` is 0 or too large."""
    if not count or count >= len(indices):
        return indices
    return np.sort(np.random.default_rng(seed).choice(indices, count, replace=False))


def choose_shown(
    options: ImageOptions, source: Source, indices: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " shown"]:
    """The images that figures show: those named, or some spread over the chosen ones.

    Raises:
      InputError: If no analysed image has a name that was asked for.
    """
    if not options.show:
        places = np.linspace(0, len(indices) - 1, min(options.num_shown, len(indices)))
        return indices[np.unique(places.round().astype(int))]
    shown = []
    for part in options.show:
        found = [i for i in indices if part in source.file_names[i]]
        if not found:
            raise InputError(
                f"--show {part}: none of the {len(indices)} analysed images of {source.name} has "
                "this in its name. With --num-images 0 all images are analysed."
            )
        shown.append(found[0])
    return np.unique(np.array(shown))


def head_fits(subject: Subject, source: Source) -> bool:
    """Whether a model's outputs are the classes of some images, in their order."""
    names, config = source.class_names, subject.config
    known = [composed(name) for name in subject.info.class_names]
    is_classifier = config.num_classes == len(names) > 0 and config.head == "classifier"
    return is_classifier and known in ([], [composed(name) for name in names])


def images_json(source: Source, split: str, num_images: int, skipped: list[str]) -> dict[str, Any]:
    """What results.json says on the images."""
    return {"name": source.name, "split": split, "num_images": num_images, "skipped": skipped}


@functools.cache
def count_parameters(config: ViTConfig) -> int:
    """Numbers in a model's parameters."""
    return sum(int(np.prod(shape)) for shape in parameter_shapes(config).values())


def _preprocess(info: CheckpointInfo, options: ImageOptions, question: str) -> Preprocess:
    """What becomes of the images of one checkpoint."""
    size = options.image_size or info.preprocess.height
    if options.protocol == "study":
        return _resized(STUDY_PREPROCESS[question], size, size)
    if options.image_size is None:
        return info.preprocess
    return _resized(info.preprocess, size, size)


def _resized(preprocess: Preprocess, height: int, width: int) -> Preprocess:
    """The same treatment at another size: the share that the crop cuts off stays."""
    scale = max(height / preprocess.height, width / preprocess.width)
    return dataclasses.replace(
        preprocess, height=height, width=width, short_side=round(preprocess.short_side * scale)
    )
