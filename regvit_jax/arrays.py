"""How does a tree of arrays reach the disk whole, and come back unharmed? Orbax is used here alone.

A folder holds `params/`, an Orbax tree of host arrays (which opens on any number of devices), and
`checksums.json`, the CRC-32 of every file in it: Orbax does not notice a flipped bit.
"""

import contextlib
import errno
import importlib.metadata
import json
import logging
import os
import re
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from regvit_jax import strict_json
from regvit_jax.errors import InputError

ARRAYS_FOLDER, CHECKSUMS_FILE = "params", "checksums.json"
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PART_BYTES = 2**24
_ERROR_CODE = re.compile(r"os_error_code='(\d+)'")
"""What TensorStore appends to the errors of the system."""
_ECHO_SECONDS = 0.3
"""After an error, for the threads that still run into it."""
_QUIET_SECONDS, _SETTLE_SECONDS = 0.5, 20.0

FILES_BYTES = 12 * 2**10
"""What an array needs besides its values: a folder, a description, the rest of a block."""

Arrays = Mapping[str, np.ndarray]
Described = dict[str, tuple[tuple[int, ...], str]]
"""Shape and type of each array."""


class DamagedArraysError(Exception):
    """Files are missing, cut short or not as they were written: reading again will not help.

    Only checksums tell. Never raised for what may be the system's fault (no right to read, a disk
    that fails, no memory): that stays an `OSError`.
    """


def check_place(folder: str | Path) -> None:
    """Does nothing if arrays can be kept under this path.

    Raises:
      InputError: If its name is not UTF-8, which TensorStore needs.
    """
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{folder} has a name that is not UTF-8, and arrays cannot be kept in such a folder. "
            "Rename it or name another one."
        ) from None


def write_arrays(folder: str | Path, arrays: Arrays) -> None:
    """Writes arrays under their "/"-joined names into an existing folder.

    Raises:
      InputError: If the folder's name is not UTF-8.
      OSError: If they cannot be written, such as on a full disk. Nothing of them stays, and nobody
        writes any more.
    """
    folder = Path(folder).resolve()
    check_place(folder)
    _check_room(folder, sum(np.asarray(x).nbytes + FILES_BYTES for x in arrays.values()))
    with _quietly(), _told_by_the_system(folder), _undone_on_failure(folder):
        with _writer() as checkpointer:
            checkpointer.save(folder / ARRAYS_FOLDER, unflatten(arrays))
        checksums = json.dumps(_checksums(folder / ARRAYS_FOLDER), indent=2)
        (folder / CHECKSUMS_FILE).write_text(checksums + "\n")


def describe_arrays(folder: str | Path) -> Described:
    """What the arrays in a folder are, without reading them.

    Raises:
      DamagedArraysError: If the folder's files are not as they were written.
      OSError: If they cannot be read.
      InputError: If they are no such arrays.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder)
    check_place(folder.resolve())
    _check_files(folder)
    with (
        _quietly(),
        _told_by_the_system(folder),
        _misfits_are_named(folder),
        ocp.StandardCheckpointer(**_alone()) as checkpointer,
    ):
        metadata = checkpointer.metadata(folder.resolve() / ARRAYS_FOLDER)
        found = flatten(dict(metadata.item_metadata.tree))
        return {name: (tuple(x.shape), str(np.dtype(x.dtype))) for name, x in found.items()}


def read_arrays(folder: str | Path, described: Described) -> dict[str, np.ndarray]:
    """The arrays in a folder by name.

    Args:
      folder: That `write_arrays` wrote into.
      described: As `describe_arrays` says.

    Raises:
      OSError: If they cannot be read.
      InputError: If they are no such arrays.
    """
    import orbax.checkpoint as ocp

    folder = Path(folder)
    check_place(folder.resolve())
    template = {name: np.zeros(shape, kind) for name, (shape, kind) in described.items()}
    with (
        _quietly(),
        _told_by_the_system(folder),
        _misfits_are_named(folder),
        ocp.StandardCheckpointer(**_alone()) as checkpointer,
    ):
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
    return {path.relative_to(folder).as_posix(): _checksum(path) for path in files}


def _checksum(path: Path) -> int:
    """CRC-32 of a file."""
    crc = 0
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            crc = zlib.crc32(part, crc)
    return crc


def _check_files(folder: Path) -> None:
    """Raises an error that names the files that do not fit their checksums, if there are any."""
    path = folder / CHECKSUMS_FILE
    try:
        written = strict_json.read_json(path)
        for name, crc in written.items():
            strict_json.expect(crc, int, f"{path}: {name}")
    except FileNotFoundError:  # of an earlier version
        _check_rights(folder)
        return
    except InputError as error:
        raise DamagedArraysError(str(error)) from error
    damaged = [
        name for name, crc in sorted(written.items()) if not _is_as_written(folder, name, crc)
    ]
    if damaged or not written:
        raise DamagedArraysError(
            f"{len(damaged)} of {len(written)} files are not as they were written "
            f"({', '.join(damaged[:3])}{', ...' if len(damaged) > 3 else ''})"
        )


def _check_rights(folder: Path) -> None:
    """Raises PermissionError where a file may not be read, which Orbax would call missing."""
    for parent, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            with open(os.path.join(parent, name), "rb"):
                pass


def _raise(error: OSError) -> NoReturn:
    raise error


def _is_as_written(folder: Path, name: str, crc: int) -> bool:
    """Whether a file is there and has a checksum; OSError where the system does not let it tell."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or "\0" in name:
        return False
    path = folder / ARRAYS_FOLDER / place
    try:
        return stat.S_ISREG(path.stat().st_mode) and _checksum(path) == crc
    except (FileNotFoundError, NotADirectoryError):
        return False


@contextlib.contextmanager
def _misfits_are_named(folder: Path) -> Iterator[None]:
    """Files that are as they were written, or unguarded, and that Orbax cannot read."""
    try:
        yield
    except (ValueError, KeyError, AttributeError, TypeError, *_ABSENT) as error:
        if _ERROR_CODE.search(str(error)):
            raise  # of the system
        words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        raise InputError(
            f"{folder / ARRAYS_FOLDER} holds no arrays that this version and Orbax "
            f"{importlib.metadata.version('orbax-checkpoint')} read ({words}). Was it written by "
            "another program, or copied in part?"
        ) from error


@contextlib.contextmanager
def _told_by_the_system(folder: Path) -> Iterator[None]:
    """TensorStore's errors of the system as `OSError`s, which name the folder."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if found := _ERROR_CODE.search(str(error)):
            code = int(found.group(1))
            raise OSError(code, os.strerror(code), str(folder)) from error
        raise
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, os.strerror(error.errno), str(folder)) from error
        raise


def _check_room(folder: Path, num_bytes: int) -> None:
    """Raises before anything is written that cannot all be: no writer then has to be stopped."""
    free = shutil.disk_usage(folder).free
    if 0 < free < num_bytes:  # some network file systems do not say: 0
        words = f"{os.strerror(errno.ENOSPC)}: {num_bytes} bytes are needed, {free} are free"
        raise OSError(errno.ENOSPC, words, str(folder))


@contextlib.contextmanager
def _undone_on_failure(folder: Path) -> Iterator[None]:
    is_done = False
    try:
        yield
        is_done = True
    finally:
        if not is_done:
            _remove_while_written(folder)


def _remove_while_written(folder: Path) -> None:
    """Removes arrays that were being written; returns when nobody writes there any more.

    TensorStore's threads outlive an error, and make a folder anew that was removed under them.
    """
    quiet_since, end = time.monotonic(), time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < min(end, quiet_since + _QUIET_SECONDS):
        for path in folder.glob(f"{ARRAYS_FOLDER}*"):
            shutil.rmtree(path, ignore_errors=True)
            quiet_since = time.monotonic()
        time.sleep(0.02)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without the tracebacks that threads print of an error that is raised as well.

    What keeps quiet of them stays: two threads may write at a time, and TensorStore's outlive both.
    """
    if not isinstance(sys.unraisablehook, _ExceptEchoes):
        sys.unraisablehook = _ExceptEchoes(sys.unraisablehook)
    logging.getLogger("absl").addFilter(_says_something)
    try:
        yield
    except BaseException:
        time.sleep(_ECHO_SECONDS)
        raise


class _ExceptEchoes:
    """Passes on what no code can catch, but for what TensorStore's threads say after an error."""

    def __init__(self, hook: Callable[[Any], Any]) -> None:
        self._hook = hook

    def __call__(self, unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            self._hook(unraisable)


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
    with ocp.Checkpointer(handler, **_alone()) as checkpointer:
        yield checkpointer


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
    """False for what Orbax logs of files that need no merging, and of errors that it raises too."""
    return not any(
        words in str(record.msg)
        for words in ("Skipping merge of OCDBT", "_SignalingThread.run() raised")
    )
