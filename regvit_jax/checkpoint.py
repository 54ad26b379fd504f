"""What is in a checkpoint directory, and how is it written so that it is whole or absent?

`config.json` says what the model is and where its weights come from; `params/` is an Orbax tree of
host arrays, which opens on any number of devices; `checksums.json` guards its files. Orbax is
imported nowhere else but in `train/state.py`.
"""

import contextlib
import dataclasses
import importlib.metadata
import json
import logging
import os
import shlex
import shutil
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess

if TYPE_CHECKING:
    from regvit_jax.model import DeiT3

FORMAT = 1
CONFIG_FILE, PARAMS_FOLDER = "config.json", "params"
CHECKSUMS_FILE = "checksums.json"
"""CRC-32 of every file of the weights: Orbax does not notice a flipped bit."""
FOREIGN_SUFFIXES = frozenset({".pth", ".pt", ".bin", ".safetensors", ".msgpack"})
"""What weights of PyTorch and other libraries are kept in."""
MODEL_FOLDER = "model"
"""Where a training run keeps its newest checkpoint directory."""

Params = dict[str, Any]


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
    directory = Path(directory).resolve()
    if directory.exists() and not overwrite:
        raise InputError(f"{directory} exists already. Choose another name, or remove it first.")
    host_params = {name: np.asarray(value) for name, value in flatten(params).items()}
    _check(directory, info.model, {k: (v.shape, str(v.dtype)) for k, v in host_params.items()})
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        with _writer() as checkpointer:
            checkpointer.save(partial / PARAMS_FOLDER, unflatten(host_params))
        checksums = json.dumps(_checksums(partial / PARAMS_FOLDER), indent=2)
        (partial / CHECKSUMS_FILE).write_text(checksums + "\n")
        (partial / CONFIG_FILE).write_text(json.dumps(_to_json(info), indent=2) + "\n")
        _move(partial, directory)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(directory: str | Path, dtype: Any = np.float32) -> "tuple[DeiT3, Params]":
    """The model and its parameters, from a checkpoint directory or a training run's.

    Args:
      directory: What `regvit-convert import` or `regvit-train` wrote.
      dtype: Of the matrix products' inputs; the parameters stay as they are.

    Raises:
      InputError: If it is no checkpoint directory, or its tensors are not exactly the model's.
    """
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    from regvit_jax.model import DeiT3

    directory = resolve(directory)
    info = read_info(directory)
    path = directory / PARAMS_FOLDER
    with ocp.StandardCheckpointer() as checkpointer:
        try:
            _check_files(directory)
            found = flatten(dict(checkpointer.metadata(path).item_metadata.tree))
            described = {k: (tuple(v.shape), str(np.dtype(v.dtype))) for k, v in found.items()}
            _check(directory, info.model, described)
            template = {k: np.zeros(shape, kind) for k, (shape, kind) in described.items()}
            params = checkpointer.restore(path, unflatten(template))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"The weights in {path} are damaged or cut short ({type(error).__name__}: "
                f"{str(error).splitlines()[0][:200]}). Convert or copy the checkpoint again."
            ) from error
    return DeiT3(info.model, dtype=jnp.dtype(dtype)), params


def read_info(directory: str | Path) -> CheckpointInfo:
    """What a checkpoint directory's `config.json` says; needs no JAX.

    Raises:
      InputError: If it is no checkpoint directory of this version.
    """
    directory = resolve(directory)
    path = directory / CONFIG_FILE
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise InputError(
                f"{path} has format {values['format']!r}, this version reads {FORMAT}."
            )
        return CheckpointInfo(
            model=ViTConfig.from_json(values["model"]),
            source=values["source"],
            class_names=tuple(values["class_names"]),
            preprocess=Preprocess.from_json(values["preprocess"]),
            metrics=values["metrics"],
        )
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a checkpoint's configuration ({type(error).__name__}: {error})."
        ) from error


def resolve(directory: str | Path) -> Path:
    """The checkpoint directory that a path means: itself, or the newest of a training run.

    Raises:
      InputError: If the path is neither; says what to do with a PyTorch file.
    """
    directory = Path(directory).resolve()
    for candidate in (directory, directory / MODEL_FOLDER):
        if (candidate / CONFIG_FILE).is_file() and not _foreign_weights(candidate):
            return candidate
    if not directory.exists():
        raise InputError(f"There is no checkpoint directory {directory}.")
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
        f"{directory} is not a checkpoint directory: it has no {CONFIG_FILE}. Expected what "
        "`regvit-convert import` or `regvit-train run` wrote."
    )


def _foreign_weights(directory: Path) -> list[Path]:
    """The files in a folder that only `regvit-convert` reads."""
    if not directory.is_dir():
        return []
    return sorted(path for path in directory.iterdir() if path.suffix in FOREIGN_SUFFIXES)


def _import_command(source: Path) -> str:
    target = source.with_name(f"{source.stem}-regvit")
    return f"regvit-convert import {shlex.quote(str(source))} {shlex.quote(str(target))}"


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries under their "/"-joined names."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}/")
        else:
            leaves[prefix + name] = value
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> Params:
    """The nested dictionaries that `flatten` took apart."""
    tree: Params = {}
    for name, value in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def parameter_shapes(config: ViTConfig) -> dict[str, tuple[int, ...]]:
    """The "/"-joined name and shape of every parameter of a model."""
    import jax
    import jax.numpy as jnp

    from regvit_jax.model import DeiT3

    one_block = dataclasses.replace(config, depth=1)  # all blocks are alike, and tracing is slow
    images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
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


def _checksums(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in files}


def _check_files(directory: Path) -> None:
    """Raises an error that names the files of the weights that are not as they were written."""
    path, folder = directory / CHECKSUMS_FILE, directory / PARAMS_FOLDER
    if not path.exists():
        return
    written, found = json.loads(path.read_text()), _checksums(folder)
    if damaged := sorted(name for name, crc in written.items() if found.get(name) != crc):
        raise InputError(
            f"The weights in {folder} are damaged or cut short: {len(damaged)} of {len(written)} "
            f"files are not as they were written ({', '.join(damaged[:3])}, ...). Convert or copy "
            "the checkpoint again."
        )


@contextlib.contextmanager
def _writer() -> Iterator[Any]:
    """Orbax's checkpointer in its thrifty form, which `StandardCheckpointer` reads as its own.

    It writes each array to a file of its own and copies none before: 3 GB then need 0.4 GB of
    memory more and 8 s, where Orbax's default needs 6 GB more and two minutes.
    """
    import jax
    import orbax.checkpoint as ocp

    handlers = ocp.type_handlers
    registry = handlers.create_type_handler_registry(
        (np.ndarray, handlers.NumpyHandler(deepcopy_host_arrays=False)),
        (jax.Array, handlers.ArrayHandler()),
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False, type_handler_registry=registry)
    logger = logging.getLogger("absl")
    logger.addFilter(_says_something)
    try:
        with ocp.Checkpointer(handler) as checkpointer:
            yield checkpointer
    finally:
        logger.removeFilter(_says_something)


def _says_something(record: logging.LogRecord) -> bool:
    """False for Orbax's warning that files of its other form are not there to be merged."""
    return "Skipping merge of OCDBT" not in str(record.msg)


def _move(partial: Path, directory: Path) -> None:
    """Puts a finished directory in its place; a checkpoint that was there is kept until then."""
    previous = directory.with_name(f".{directory.name}.previous-{os.getpid()}")
    if directory.exists():
        directory.rename(previous)
    partial.rename(directory)
    shutil.rmtree(previous, ignore_errors=True)


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


def versions() -> dict[str, str]:
    """Of the libraries that results depend on."""
    names = ("regvit-jax", "jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "pillow")
    installed = {dist for dist in names if _installed(dist)}
    return {name: importlib.metadata.version(name) for name in names if name in installed}


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
