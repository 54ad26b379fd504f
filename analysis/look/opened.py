"""Which models look, and which photographs do they see? Whatever the user has: paths or models."""

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from regvit_jax.analysis.engine.subjects import Subject, short_labels
from regvit_jax.analysis.spoken import shown
from regvit_jax.checkpoint import Params, load, read_info, resolve
from regvit_jax.errors import InputError
from regvit_jax.image_files import open_files
from regvit_jax.image_folder import FolderSource
from regvit_jax.images import Picture
from regvit_jax.model import DeiT3
from regvit_jax.photographs import several
from regvit_jax.preprocess import Preprocess

MAX_PHOTOGRAPHS = 64
"""More of them are a data set: an analysis shows a few, and counts over all."""


class Opened(NamedTuple):
    """A model, its weights and what it does to a photograph."""

    title: str
    model: DeiT3
    params: Params
    preprocess: Preprocess


class Photograph(NamedTuple):
    """A picture to look at."""

    name: str
    """The file's, or "image 1", ..."""
    picture: Picture


def open_models(models: Any) -> list[Opened]:
    """Models to look through, in the order given.

    Args:
      models: A checkpoint's directory, or what `from_torch` returned, or several of them.

    Raises:
      InputError: If one is neither, is named twice, or does not read photographs.
    """
    given = [models] if _is_one(models) else models
    if not isinstance(given, Iterable) or not (given := list(given)):
        raise InputError(_expected(models))
    for model in given:
        if not _is_one(model):
            raise InputError(_expected(models))
    paths = [resolve(model) for model in given if isinstance(model, str | Path)]
    if len(set(paths)) < len(paths):
        raise InputError("The same checkpoint is named twice.")
    labels = dict(zip(paths, short_labels(paths) if paths else [], strict=True))
    opened = []
    for place, model in enumerate(given, start=1):
        if isinstance(model, str | Path):
            path, info = resolve(model), read_info(model)
            network, params = load(path)
            subject = Subject(labels[path], path, info, info.preprocess)
        else:
            network, params, info = model
            subject = Subject(f"model {place}", Path(), info, info.preprocess)
        if info.model.num_channels != 3:
            raise InputError(
                f"{subject.label} reads images of {info.model.num_channels} channels; photographs "
                "have 3."
            )
        opened.append(Opened(subject.title, network, params, info.preprocess))
    return opened


def open_photographs(images: Any) -> list[Photograph]:
    """Photographs to look at.

    Args:
      images: Paths, folders and patterns, Pillow images or arrays of uint8; one or several.

    Raises:
      InputError: If a name stands for no image, or there are too many.
    """
    found: list[Photograph] = []
    for place, picture in enumerate(several(images), start=1):
        if isinstance(picture, str | bytes | os.PathLike):
            source = _files(os.fsdecode(picture))
            found += [
                Photograph(shown(f.split("/")[-1]), source.root / f) for f in source.file_names
            ]
        else:
            found.append(Photograph(_name(picture, place), picture))
        if len(found) > MAX_PHOTOGRAPHS:
            raise InputError(
                f"These are more than {MAX_PHOTOGRAPHS} photographs. Name fewer, or measure all of "
                "them: regvit-analyze norms --data ..."
            )
    if not found:
        raise InputError("There are no photographs to look at.")
    return found


def _files(name: str) -> FolderSource:
    """The images that a name stands for."""
    if not (os.path.exists(os.path.expanduser(name)) or glob.has_magic(name)):
        raise InputError(
            f"There is no image {shown(name)}. Expected a file, a folder of images or a pattern "
            "such as 'photos/*.jpg'."
        )
    return open_files(name)


def _is_one(model: Any) -> bool:
    """Whether this is one model: a path, or a model with its weights and what is known of it."""
    return isinstance(model, str | Path) or (
        isinstance(model, tuple) and len(model) == 3 and isinstance(model[0], DeiT3)
    )


def _expected(models: Any) -> str:
    kind = "nothing" if models in ([], ()) else type(models).__name__
    if isinstance(models, Sequence) and len(models) == 2 and isinstance(models[0], DeiT3):
        kind = "a model and its parameters, which do not say how a photograph is prepared"
    return (
        "Expected a checkpoint's directory, what `regvit_jax.from_torch` returned, or several of "
        f"them; got {kind}."
    )


def _name(picture: Image.Image | np.ndarray, place: int) -> str:
    file = getattr(picture, "filename", "")  # Pillow's, where it was read from one
    return shown(Path(os.fsdecode(file)).name) if file else f"image {place}"
