"""How does a file or folder reach the disk whole, or not at all? Its one owner.

What is being written lies beside its place under a hidden name that tells the machine and process
(`.NAME.partial-HOST-PID`); it is synced and then renamed. A killed process can leave such a thing
behind; `remove_leftovers` takes away those whose process is gone.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from regvit_jax.errors import InputError

_EXCHANGE, _AT_FDCWD = 2, -100
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS, errno.EBADF)
_HOST = "".join(c if c.isalnum() else "_" for c in socket.gethostname()) or "host"


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes a file; what was there is replaced once the new content is safe on the disk.

    A device or a pipe, such as /dev/stdout, is written to as it is.
    """
    path = Path(path)
    if _is_special(path):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return
    with appearing(path, replace=True) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def appearing(path: str | Path, replace: bool = False) -> Iterator[Path]:
    """A name to write a file or a folder under, which becomes `path` when the block ends well.

    If the block raises, nothing of it stays and `path` is as it was. Missing parent folders are
    made; a symbolic link stays, and what it names is written.

    Args:
      path: Of the file or folder.
      replace: Whether something may be there already; it is swapped for the new in one step where
        the file system can do that.

    Raises:
      FileExistsError: If `path` exists and `replace` is not set.
      InputError: If it is a device or a pipe.
    """
    path = Path(os.path.realpath(path))
    if _is_special(path):
        raise InputError(f"{path} is a device or a pipe; name a file or a folder.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{_HOST}-{os.getpid()}")
    _remove(partial)
    try:
        yield partial
        sync(partial)
        _put(partial, path, replace)
        _sync_folder(path.parent)
    finally:
        _remove(partial)


def untaken(name: str, suffix: str = "") -> Path:
    """NAME and the suffix; where something is there, the first of NAME-2, NAME-3, ... that is free.

    Args:
      name: A path without its suffix.
      suffix: Such as ".html"; none for a folder.
    """
    number, path = 1, Path(f"{name}{suffix}")
    while path.exists():
        number += 1
        path = Path(f"{name}-{number}{suffix}")
    return path


def remove_leftovers(folder: str | Path, is_alone: bool = False) -> list[Path]:
    """Removes from a folder what processes of this machine that are gone were writing.

    What such a process had moved aside and not yet replaced is put back.

    Args:
      folder: Only what lies in it directly is looked at.
      is_alone: Nobody else writes there, as a lock guarantees: what processes of other machines,
        or with numbers that are in use again, were writing goes too.

    Returns:
      What was removed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return []
    removed = []
    for path in folder.glob(".*.partial-*" if is_alone else f".*.partial-{_HOST}-*"):
        pid = path.name.rpartition("-")[2]
        if is_alone or (pid.isdigit() and not _is_running(int(pid))):
            place, is_previous, _ = path.name[1:].partition(".previous.partial-")
            if is_previous and not os.path.lexists(folder / place):
                path.rename(folder / place)  # killed between the two renames of `_put`
            else:
                _remove(path)
                removed.append(path)
    return removed


def vanish(path: Path) -> None:
    """Removes a file or a folder; nobody finds it half removed, whenever the process ends."""
    partial = path.with_name(f".{path.name}.partial-{_HOST}-{os.getpid()}")
    _remove(partial)
    path.rename(partial)
    _remove(partial)


def sync(path: Path) -> None:
    """Returns when a file, or all that is in a folder, would survive a power failure."""
    if path.is_dir() and not path.is_symlink():
        for entry in path.iterdir():
            sync(entry)
        _sync_folder(path)
    elif path.is_file():
        _fsync(path, os.O_RDONLY)


def _put(partial: Path, path: Path, replace: bool) -> None:
    """Renames to a place that may be taken; another process never finds the place empty."""
    if not os.path.lexists(path):
        partial.rename(path)
        return
    if not replace:
        raise FileExistsError(errno.EEXIST, "exists already", str(path))
    if not (partial.is_dir() or path.is_dir()):
        os.replace(partial, path)
    elif not _exchange(partial, path):
        # No swap on this file system: the name is free for the time of one rename.
        previous = partial.with_name(partial.name.replace(".partial-", ".previous.partial-"))
        path.rename(previous)
        try:
            partial.rename(path)
        except OSError:
            previous.rename(path)
            raise
        _remove(previous)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two names in one step, where the system can (Linux)."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second))
    return rename(*names, _EXCHANGE) == 0


def _is_special(path: Path) -> bool:
    """Whether a path is there and neither a file nor a folder."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def _sync_folder(folder: Path) -> None:
    """Syncs a folder's names; one that may be written to but not read is left to the system."""
    with contextlib.suppress(PermissionError):
        _fsync(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))


def _fsync(path: Path, flags: int) -> None:
    """Syncs; a file system that cannot (some network ones) is taken at its word."""
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
