"""How does a tree of arrays reach the disk whole, and come back unharmed? Orbax is used here alone.

A folder holds `params/`, an Orbax tree of host arrays (which opens on any number of devices), and
`checksums.json`, the CRC-32 of every file in it: Orbax does not notice a flipped bit.
"""

import contextlib
import errno
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regvit_jax.errors import InputError
from regvit_jax.strict_json import read_json

ARRAYS_FOLDER, CHECKSUMS_FILE = "params", "checksums.json"

Arrays = Mapping[str, np.ndarray]
Described = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type of each array."""


SETTLED_SECONDS, PATIENCE_SECONDS = 0.3, 10.0
"""How long files must not change to count as written, and how long this is waited for."""


FILES_BYTES = 12 * 2**10
"""What an array needs besides its values: a folder, a description, the rest of a block."""


class DamagedArraysError(Exception):
    """Files are missing, cut short or not as they were written: the checksums tell.

    Never raised for what may be the system's fault: an error while reading, a missing right, a
    full disk are `OSError`s, and the same files may be whole when they are read again.
    """


def write_arrays(folder: Path, arrays: Arrays) -> None:
    """Writes arrays under their "/"-joined names into an existing folder.

    Raises:
      OSError: If they cannot be written. Nobody writes into the folder any more then.
    """
    _check_room(folder, sum(np.asarray(x).nbytes + FILES_BYTES for x in arrays.values()))
    with _errors_of_the_system(folder), _writer() as checkpointer:
        checkpointer.save(folder.resolve() / ARRAYS_FOLDER, unflatten(arrays))
    checksums = json.dumps(_checksums(folder / ARRAYS_FOLDER), indent=2)
    (folder / CHECKSUMS_FILE).write_text(checksums + "\n")


def describe_arrays(folder: Path) -> Described:
    """What the arrays in a folder are, without reading them.

    Raises:
      DamagedArraysError: If the folder's files are not as they were written.
      InputError: If they are, but are no such arrays.
      OSError: If they cannot be read.
    """
    import orbax.checkpoint as ocp

    _check_files(folder)
    with _misfits_are_named(folder), ocp.StandardCheckpointer(**_alone()) as checkpointer:
        metadata = checkpointer.metadata(folder.resolve() / ARRAYS_FOLDER)
        found = flatten(dict(metadata.item_metadata.tree))
        return {name: (tuple(x.shape), str(np.dtype(x.dtype))) for name, x in found.items()}


def read_arrays(folder: Path, described: Described) -> dict[str, np.ndarray]:
    """The arrays in a folder by name.

    Args:
      folder: That `write_arrays` wrote into.
      described: As `describe_arrays` says.

    Raises:
      InputError: If they are no such arrays.
      OSError: If they cannot be read.
    """
    import orbax.checkpoint as ocp

    template = {name: np.zeros(shape, kind) for name, (shape, kind) in described.items()}
    with _misfits_are_named(folder), ocp.StandardCheckpointer(**_alone()) as checkpointer:
        tree = checkpointer.restore(folder.resolve() / ARRAYS_FOLDER, unflatten(template))
        return flatten(tree)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves of nested dictionaries under their "/"-joined names."""
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}/")
        else:
            leaves[prefix + name] = value
    return leaves


def unflatten(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dictionaries that `flatten` took apart."""
    tree: dict[str, Any] = {}
    for name, value in leaves.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _checksums(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): zlib.crc32(path.read_bytes()) for path in files}


def _check_files(folder: Path) -> None:
    """Raises an error that names the files that are not as they were written."""
    path = folder / CHECKSUMS_FILE
    if not path.exists():
        return
    try:
        written = read_json(path)
    except InputError as error:
        raise DamagedArraysError(str(error)) from error
    found = _checksums(folder / ARRAYS_FOLDER)
    if damaged := sorted(name for name, crc in written.items() if found.get(name) != crc):
        raise DamagedArraysError(
            f"{len(damaged)} of {len(written)} files are not as they were written "
            f"({', '.join(damaged[:3])}{', ...' if len(damaged) > 3 else ''})"
        )


@contextlib.contextmanager
def _misfits_are_named(folder: Path) -> Iterator[None]:
    """Files whose checksums are right, and which Orbax cannot read all the same."""
    try:
        with _errors_of_the_system(folder):
            yield
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{folder / ARRAYS_FOLDER} holds no arrays that this version reads "
            f"({type(error).__name__}: {_first_line(error)}). Was it written by another program, "
            "or copied in part?"
        ) from error


@contextlib.contextmanager
def _errors_of_the_system(folder: Path) -> Iterator[None]:
    """Errors of TensorStore, which have types of their own, as Python's; its writers have ended."""
    try:
        yield
    except Exception as error:
        _wait_for_writers(folder)
        number = _system_error(error)
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(number, f"{os.strerror(number)} ({_first_line(error)})", folder) from error


_SYSTEM_WORDS = {
    errno.ENOSPC: ("No space left", "ENOSPC"),
    errno.EDQUOT: ("quota exceeded", "EDQUOT"),
    errno.EFBIG: ("File too large", "EFBIG"),
    errno.EACCES: ("Permission denied", "PERMISSION_DENIED"),
    errno.EROFS: ("Read-only file system",),
    errno.EIO: ("Input/output error",),
    errno.EMFILE: ("Too many open files",),
}
"""How TensorStore and Orbax write what the system said."""


def _system_error(error: BaseException) -> int | None:
    """The system's number of an error that only its text tells."""
    seen: BaseException | None = error
    while seen is not None:
        text = str(seen)
        for number, words in _SYSTEM_WORDS.items():
            if any(word in text for word in words):
                return number
        seen = seen.__cause__ or seen.__context__
    return None


def _check_room(folder: Path, num_bytes: int) -> None:
    """Raises before anything is written that cannot all be: no writer then has to be stopped."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        words = f"{os.strerror(errno.ENOSPC)}: {num_bytes} bytes are needed, {free} are free"
        raise OSError(errno.ENOSPC, words, folder)


def _wait_for_writers(folder: Path) -> None:
    """Returns when no file in a folder changes any more: writers outlive the call that failed."""
    end, before, since = time.monotonic() + PATIENCE_SECONDS, None, time.monotonic()
    while time.monotonic() < end:
        now = _sizes(folder)
        if now != before:
            before, since = now, time.monotonic()
        elif time.monotonic() - since >= SETTLED_SECONDS:
            return
        time.sleep(SETTLED_SECONDS / 6)


def _sizes(folder: Path) -> list[tuple[str, int]]:
    found = []
    for path in sorted(folder.rglob("*")):
        with contextlib.suppress(OSError):
            found.append((str(path), path.lstat().st_size))
    return found


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


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
    handler = ocp.PyTreeCheckpointHandler(
        use_ocdbt=False, type_handler_registry=registry, **_alone()
    )
    logger = logging.getLogger("absl")
    logger.addFilter(_says_something)
    try:
        with ocp.Checkpointer(handler, **_alone()) as checkpointer:
            yield checkpointer
    finally:
        logger.removeFilter(_says_something)


def _alone() -> dict[str, Any]:
    """Options by which Orbax waits for no other process: one of several writes, any may read."""
    import jax
    import orbax.checkpoint as ocp

    if jax.process_count() == 1:
        return {}
    mine = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=mine, active_processes={mine}, barrier_sync_key_prefix=f"process{mine}"
    )
    return {"multiprocessing_options": options}


def _says_something(record: logging.LogRecord) -> bool:
    """False for a warning that files of Orbax's other form are not there, and for raised errors.

    Orbax logs the traceback of what a writing thread raised; the same is raised here.
    """
    return "Skipping merge of OCDBT" not in str(record.msg) and record.levelno < logging.ERROR
