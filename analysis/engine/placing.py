"""How do finished files take the place of older ones, whatever is killed meanwhile?

New files are made in a hidden folder (`Workplace`) that one command at a time may hold. Where
nothing lies at their place yet, that folder becomes the place by one rename. Otherwise it is
renamed to `ARRIVING` inside the place, and that rename decides: from then on its files are the
results, and the next command that writes there ends what a killed one had begun (`settle`). Files
that are not named as replaced stay where they are.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from regvit_jax.errors import InputError
from regvit_jax.strict_json import expect, read_json
from regvit_jax.whole import sync, write_whole

ARRIVING = ".arriving"
_WORKPLACE = ".partial"
_REPLACED = ".replaced.json"
_IN_USE = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})


class Workplace:
    """An empty folder in which a command makes what will lie at `place`.

    It is inside the place where that exists, and beside it where not. What a killed command left
    there is removed.

    Raises:
      InputError: If another command is making something for the same place.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        beside = place.with_name(f".{place.name}{_WORKPLACE}")
        if place.is_dir() and beside.is_dir():  # of a command that found no such place
            with contextlib.suppress(InputError):
                Workplace._remove(_hold(beside, place), beside)
        self.folder = place / _WORKPLACE if place.is_dir() else beside
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _hold(self.folder, place)
        if self._lock is None:
            self.folder = self.folder.with_name(f"{self.folder.name}-{os.getpid()}")
            self.folder.mkdir()
        for entry in list(self.folder.iterdir()):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def give_up(self) -> None:
        """Removes what was not put into its place, and lets other commands in."""
        self._remove(self._lock, self.folder)
        self._lock = None

    def put(self, replaced: Sequence[str], last: str) -> None:
        """Moves everything to its place.

        Args:
          replaced: Names of files there that are to be removed.
          last: The file that is moved after all others.

        Raises:
          OSError: If it cannot; what was there is then as it was.
        """
        new = {path.name for path in self.folder.iterdir()}
        if folders := sorted(name for name in new if (self.place / name).is_dir()):
            raise IsADirectoryError(
                errno.EISDIR, "A folder lies where a file of the results belongs", folders[0]
            )
        sync(self.folder)
        if not self.place.is_dir():
            self.folder.rename(self.place)
            _sync_names(self.place.parent)
            return
        old = json.dumps({"files": sorted({*replaced} - new)})
        write_whole(self.folder / _REPLACED, old)
        self.folder.rename(self.place / ARRIVING)
        _sync_names(self.place)
        _move_in(self.place, last)

    @staticmethod
    def _remove(lock: int | None, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def settle(place: Path, last: str) -> None:
    """Ends the move that a killed command had begun, if there is one.

    Raises:
      InputError: If a command that is running is moving them.
    """
    if (arriving := place / ARRIVING).is_dir():
        lock = _hold(arriving, place)
        try:
            _move_in(place, last)
        finally:
            if lock is not None:
                os.close(lock)


def _move_in(place: Path, last: str) -> None:
    """Removes what is replaced and moves the new files in; begun again, it goes on."""
    arriving = place / ARRIVING
    listed = arriving / _REPLACED
    old = expect(read_json(listed).get("files"), list, str(listed)) if listed.is_file() else []
    for name in old:
        (place / Path(str(name)).name).unlink(missing_ok=True)
    names = sorted(path.name for path in arriving.iterdir() if path.name != _REPLACED)
    for name in sorted(names, key=lambda name: name == last):
        os.replace(arriving / name, place / name)
    _sync_names(place)
    listed.unlink(missing_ok=True)
    arriving.rmdir()


def _hold(folder: Path, place: Path) -> int | None:
    """A lock on a folder, which is made if it is missing; None where there are no locks.

    It ends with the process, however that ends, and goes with the folder when it is renamed.
    """
    while True:
        folder.mkdir(exist_ok=True)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue  # renamed by its owner in between
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.is_dir() and os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
            os.close(lock)
        except OSError as error:
            os.close(lock)
            if error.errno in _IN_USE:
                raise InputError(
                    f"Another command is writing results into {place}. Wait until it has ended, "
                    "or choose another --out."
                ) from None
            sys.stderr.write(
                f"{place}: this file system has no locks ({error.strerror}); start no second "
                "command with this --out.\n"
            )
            with contextlib.suppress(OSError):
                folder.rmdir()
            return None


def _sync_names(folder: Path) -> None:
    """Returns when the names in a folder would survive a power failure, where it can tell."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
