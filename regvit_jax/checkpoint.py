"""What is in a checkpoint directory, and how is it written so that it is whole or absent?

`config.json` says what the model is and where its weights come from; the weights lie in `params/`,
guarded by `checksums.json` (`regvit_jax.arrays`).
"""

import dataclasses
import json
import os
import shlex
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regvit_jax import strict_json
from regvit_jax.arrays import (
    DamagedArraysError,
    check_place,
    describe_arrays,
    flatten,
    read_arrays,
    unflatten,
    write_arrays,
)
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess
from regvit_jax.shipped import hint, located
from regvit_jax.versions import versions
from regvit_jax.whole import appearing, remove_leftovers

if TYPE_CHECKING:
    from regvit_jax.model import DeiT3

FORMAT = 1
CONFIG_FILE = "config.json"
FOREIGN_SUFFIXES = frozenset({".pth", ".pt", ".bin", ".safetensors", ".msgpack"})
"""What weights of PyTorch and other libraries are kept in."""
MODEL_FOLDER = "model"
"""Where a training run keeps its newest checkpoint directory."""

Params = dict[str, Any]

_KINDS: dict[str, type] = {
    "format": int,
    "model": dict,
    "source": dict,
    "class_names": list,
    "preprocess": dict,
    "metrics": dict,
}
"""What a configuration holds."""


@dataclasses.dataclass(frozen=True)
class CheckpointInfo:
    """All that a checkpoint directory says about its weights."""

    model: ViTConfig
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Where the weights come from: the training run, or the file with its SHA-256."""
    class_names: tuple[str, ...] = ()
    """What the head's outputs stand for; empty where unknown."""
    preprocess: Preprocess = dataclasses.field(default_factory=Preprocess)
    """What evaluation does to an image."""
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def save(
    directory: str | Path, params: Params, info: CheckpointInfo, overwrite: bool = False
) -> None:
    """Writes a checkpoint directory, which appears only when it is complete.

    Raises:
      InputError: If the directory exists and `overwrite` is not set, or the parameters do not fit
        the configuration.
    """
    directory = Path(os.path.realpath(directory))
    if directory.exists() and not (overwrite and _may_be_replaced(directory)):
        raise InputError(f"{directory} exists already. Choose another name, or remove it first.")
    check_place(directory)
    host_params = {name: np.asarray(value) for name, value in flatten(params).items()}
    _check(directory, info.model, {k: (v.shape, str(v.dtype)) for k, v in host_params.items()})
    remove_leftovers(directory.parent)
    with appearing(directory, replace=overwrite) as partial:
        partial.mkdir()
        write_arrays(partial, host_params)
        (partial / CONFIG_FILE).write_text(json.dumps(_to_json(info), indent=2) + "\n")


def load(directory: str | Path, dtype: Any = np.float32) -> "tuple[DeiT3, Params]":
    """The model and its parameters, from a checkpoint directory or a training run's.

    Args:
      directory: What `regvit-convert import` or `regvit-train` wrote, or the name of a model that
        comes with the package (`regvit_jax.shipped.MODELS`).
      dtype: Of the matrix products' inputs; the parameters stay as they are.

    Raises:
      InputError: If it is no checkpoint directory, or its tensors are not exactly the model's.
      OSError: If it cannot be read.
    """
    import jax.numpy as jnp

    from regvit_jax.model import DeiT3

    directory = resolve(directory)
    info = read_info(directory)
    try:
        described = describe_arrays(directory)
        _check(directory, info.model, described)
        params = unflatten(read_arrays(directory, described))
    except DamagedArraysError as error:
        raise InputError(
            f"The weights in {directory} are damaged or cut short: {error}. Convert or copy the "
            "checkpoint again."
        ) from error
    return DeiT3(info.model, dtype=jnp.dtype(dtype)), params


def read_info(directory: str | Path) -> CheckpointInfo:
    """What a checkpoint directory's `config.json` says; needs no JAX.

    Raises:
      InputError: If it is no checkpoint directory of this version.
      OSError: If it cannot be read.
    """
    path = resolve(directory) / CONFIG_FILE
    values = strict_json.read_json(path)
    if values.get("format") != FORMAT:
        raise InputError(
            f"{path} has format {values.get('format')!r:.40}; this version reads {FORMAT}. "
            "Expected the configuration of a checkpoint that regvit_jax wrote."
        )
    if missing := [name for name in _KINDS if name not in values]:
        raise InputError(f"{path} is not a checkpoint's configuration: it lacks {missing}.")
    for name, kind in _KINDS.items():
        strict_json.expect(values[name], kind, f"{path}: {name}")
    names = values["class_names"]
    return CheckpointInfo(
        model=ViTConfig.from_json(values["model"], f"{path}: model"),
        source=values["source"],
        class_names=strict_json.convert(names, tuple[str, ...], f"{path}: class_names"),
        preprocess=strict_json.build(Preprocess, values["preprocess"], f"{path}: preprocess"),
        metrics=values["metrics"],
    )


def resolve(directory: str | Path) -> Path:
    """The checkpoint directory that a path means: itself, or the newest of a training run.

    The name of a model that comes with the package means that one, if nothing here is called so.

    Raises:
      InputError: If the path is none of them; says what to do with a PyTorch file.
    """
    named, directory = directory, Path(os.path.realpath(located(directory)))
    for candidate in (directory, directory / MODEL_FOLDER):
        if _is_file(candidate / CONFIG_FILE) and not _foreign_weights(candidate):
            return candidate
    if not directory.exists():
        raise InputError(f"There is no checkpoint directory {directory}.{hint(named)}")
    if directory.is_file():
        raise InputError(
            f"{directory} is a file, not a checkpoint directory. If it holds weights of PyTorch, "
            f"run `{_import_command(directory)}` first."
        )
    if weights := _foreign_weights(directory):
        source = directory if (directory / CONFIG_FILE).is_file() else weights[0]
        raise InputError(
            f"{directory} holds weights of another library ({weights[0].name}). Run "
            f"`{_import_command(source)}` first, and name what it writes."
        )
    raise InputError(
        f"{directory} is not a checkpoint directory: it has no {CONFIG_FILE}. "
        + (
            _inside(directory)
            or "Expected what `regvit-convert import` or `regvit-train run` wrote."
        )
    )


def _inside(directory: Path) -> str:
    """Which checkpoints lie in a folder that is none: perhaps one of them was meant."""
    places = (path for path in sorted(directory.iterdir()) if path.is_dir())
    found = [
        str(path)
        for path in places
        if any(_is_file(c / CONFIG_FILE) for c in (path, path / MODEL_FOLDER))
    ]
    return f"Did you mean {' or '.join(found[:4])}?" if found else ""


def _is_file(path: Path) -> bool:
    """Whether a file is there; OSError where the system does not let it be known."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _may_be_replaced(directory: Path) -> bool:
    """Whether a folder is a checkpoint's or empty; anything else is not ours to remove."""
    return directory.is_dir() and (
        _is_file(directory / CONFIG_FILE) or not any(directory.iterdir())
    )


def _foreign_weights(directory: Path) -> list[Path]:
    """The files in a folder that only `regvit-convert` reads."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in FOREIGN_SUFFIXES)


def _import_command(source: Path) -> str:
    target = source.with_name(f"{source.stem}-regvit")
    return f"regvit-convert import {shlex.quote(str(source))} {shlex.quote(str(target))}"


def parameter_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The "/"-joined name and shape of every parameter of a model."""
    import jax
    import jax.numpy as jnp

    from regvit_jax.model import DeiT3

    # All blocks are alike, and tracing is slow.
    one_block = dataclasses.replace(config, depth=1, added=None)
    images = jax.ShapeDtypeStruct((1, *config.image_shape), jnp.float32)
    params = jax.eval_shape(DeiT3(one_block).init, jax.random.key(0), images)["params"]
    shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
    block = {name: shapes.pop(name) for name in list(shapes) if name.startswith("blocks_0/")}
    for i in range(config.depth):
        shapes |= {name.replace("blocks_0", f"blocks_{i}", 1): block[name] for name in block}
    return shapes


def _check(
    directory: Path, config: ViTConfig, found: Mapping[str, tuple[tuple[int, ...], str]]
) -> None:
    """Raises one error that names every tensor that is missing, unknown or of another kind."""
    expected = parameter_shapes(config)
    problems = [f"missing {name} {expected[name]}" for name in sorted(expected.keys() - found)]
    problems += [f"unknown {name} {found[name][0]}" for name in sorted(found.keys() - expected)]
    for name in sorted(expected.keys() & found.keys()):
        shape, dtype = found[name]
        if tuple(shape) != expected[name]:
            problems.append(f"{name} has shape {tuple(shape)}, expected {expected[name]}")
        if dtype != "float32":
            problems.append(f"{name} is {dtype}, expected float32")
    if problems:
        raise InputError(
            f"The weights of {directory} do not fit its configuration:\n  " + "\n  ".join(problems)
        )


def _to_json(info: CheckpointInfo) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": dataclasses.asdict(info.model),
        "source": dict(info.source),
        "class_names": list(info.class_names),
        "preprocess": dataclasses.asdict(info.preprocess),
        "metrics": dict(info.metrics),
        "versions": versions(),
    }
