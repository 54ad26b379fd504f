"""What does a run leave behind? One directory, which knows whose it is and how far it came.

recipe.json     the configuration, every default written out
metrics.jsonl   loss, rate and speed, one line every few steps, and each evaluation
tensorboard/    the same numbers for TensorBoard
steps/<n>/      states from which an interrupted run continues
model/          the newest evaluated weights: a checkpoint directory for every command
ema/            their moving average, if the recipe asks for one
best/           the weights of the best evaluation
epochs/<n>/     weights after epoch n, counted from 0, if the recipe keeps some
result.json     the last evaluation; it exists once the run is finished
"""

import errno
import fcntl
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from regvit_jax import checkpoint, strict_json
from regvit_jax.arrays import check_place
from regvit_jax.errors import InputError
from regvit_jax.train.metrics import ADJUSTED, CHANGED, Metrics, is_evaluation
from regvit_jax.train.recipe import Recipe, differences, is_binding, located
from regvit_jax.train.state import StateStore, TrainState
from regvit_jax.whole import remove_leftovers, write_whole

RECIPE, METRICS, STEPS, RESULT = "recipe.json", "metrics.jsonl", "steps", "result.json"
BEST, EMA, EPOCHS, EVENTS, LOCK = "best", "ema", "epochs", "tensorboard", ".lock"

IS_LOCKED = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES})
NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL})
"""What file systems without locks answer: some of NFS, Lustre and FUSE."""

logger = logging.getLogger(__name__)


class RunDirectory:
    """The directory of one run; of several processes, only the first one writes.

    Args:
      path: Of the directory.
      is_writer: Whether this process writes.
    """

    def __init__(self, path: Path, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        self.states = StateStore(path / STEPS)
        self.metrics = Metrics(path / METRICS, path / EVENTS)
        self._lock: TextIO | None = None
        self._has_lock = False

    @classmethod
    def claim(
        cls, path: Path, recipe: Recipe, is_writer: bool = True, allow_changes: bool = False
    ) -> "RunDirectory":
        """The directory of a recipe's run: a new one, or that of the same recipe.

        Args:
          path: Of the directory.
          recipe: The run's.
          is_writer: Whether this process writes.
          allow_changes: Go on with another recipe than the run was started with.

        Raises:
          InputError: If it belongs to another recipe, holds something else, or another process is
            training in it.
        """
        run = cls(path, is_writer)
        if is_writer:
            try:
                run._claim(recipe, allow_changes)
            except (InputError, OSError):
                run.close()
                raise
        run.states.kept = recipe.kept_states
        return run

    def _claim(self, recipe: Recipe, allow_changes: bool) -> None:
        path = self.path
        if (path / RECIPE).is_file():
            self.lock()
            self._continue(recipe, allow_changes)
        elif path.exists() and (not path.is_dir() or any(map(_is_precious, path.iterdir()))):
            raise InputError(f"{path} exists and is no training run. Choose another --out.")
        else:
            check_place(path.resolve())
            path.mkdir(parents=True, exist_ok=True)
            self.lock()
            write_json(path / RECIPE, located(recipe).to_json())
        if self._has_lock:
            for folder in (path, path / STEPS, path / EPOCHS):
                remove_leftovers(folder, is_alone=True)

    def _continue(self, recipe: Recipe, allow_changes: bool) -> None:
        """Takes on the recipe where it may differ from the run's so far."""
        changes = differences(self.recipe(), recipe)
        if binding := [change for change in changes if is_binding(change)]:
            if not allow_changes:
                raise InputError(
                    f"{self.path} is the run of another configuration:\n  "
                    + "\n  ".join(binding)
                    + "\nChoose another --out, the same configuration to continue, or "
                    "--allow-changes to continue with this one."
                )
            self.metrics.log({"step": self.last_step(), CHANGED: changes})
            (self.path / RESULT).unlink(missing_ok=True)
        elif changes and not (self.path / RESULT).exists():
            self.metrics.log({"step": self.last_step(), ADJUSTED: changes})
        elif changes:
            return  # finished: nothing is done with them
        if changes:
            write_json(self.path / RECIPE, located(recipe).to_json())

    def lock(self) -> None:
        """Keeps other processes out until this one ends, however it ends.

        A file system without locks costs a warning.

        Raises:
          InputError: If another process is in.
          OSError: If the lock's file cannot be written.
        """
        self._lock = (self.path / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._has_lock = True
        except OSError as error:
            if error.errno in IS_LOCKED:
                raise InputError(
                    f"Another process is training in {self.path}. Wait for it, or choose another "
                    "--out."
                ) from None
            if error.errno not in NO_LOCKS:
                raise
            logger.warning(
                "The file system of %s has no locks (%s): see to it that no second process trains "
                "there.",
                self.path,
                error.strerror,
            )

    def close(self) -> None:
        """Waits for what is being written, and lets other processes in."""
        try:
            self.states.wait()
        finally:
            self.metrics.close()
            if self._lock is not None:
                self._lock.close()

    def last_step(self) -> int:
        """The newest saved step, 0 if there is none."""
        return max(self.states.steps(), default=0)

    def save(self, state: TrainState, losses: Sequence[float]) -> None:
        """Begins to save a state, once all that was reported before it is safe.

        Raises:
          InputError: If the directory was moved or removed meanwhile.
          OSError: If the state before could not be written.
        """
        if self.is_writer:
            self.check_place()
            self.metrics.sync()
            self.states.save(state, losses)

    def check_place(self) -> None:
        """Raises if the directory is no longer where this process found it.

        Raises:
          InputError: Says where it is now, if the system can tell.
        """
        if self._lock is None:
            return
        try:
            if os.path.samestat((self.path / LOCK).stat(), os.fstat(self._lock.fileno())):
                return
        except FileNotFoundError:
            pass
        raise InputError(
            f"The run's directory {self.path} was {_fate(self._lock)} while it was trained. "
            "Nothing more is written. With its new place as --out, the same command continues from "
            "the newest saved state."
        )

    @property
    def model_path(self) -> Path:
        return self.path / checkpoint.MODEL_FOLDER

    @property
    def best_path(self) -> Path:
        return self.path / BEST

    def epoch_path(self, epoch: int) -> Path:
        """Where the weights after an epoch are kept for good."""
        return self.path / EPOCHS / str(epoch)

    def recipe(self) -> Recipe:
        """The configuration that the run was started with.

        Raises:
          InputError: If `recipe.json` cannot be read.
        """
        path = self.path / RECIPE
        try:
            return Recipe.from_json(strict_json.read_json(path), str(path))
        except InputError as error:
            raise InputError(f"{error} Put the file back, or choose another --out.") from error

    def result(self) -> dict[str, Any] | None:
        """The last evaluation of a finished run, None before.

        Raises:
          InputError: If `result.json` cannot be read.
        """
        path = self.path / RESULT
        if not path.exists():
            return None
        advice = "Move it away, and the same command writes it again from the last state."
        try:
            result = strict_json.read_json(path)
        except InputError as error:
            raise InputError(f"{error} {advice}") from error
        if not is_evaluation(result):
            raise InputError(
                f"{path} does not tell an accuracy (data; top1 with share, low, high and n). "
                f"{advice}"
            )
        return result

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run as finished, once its last state is safe.

        Raises:
          OSError: If something cannot be written.
        """
        if self.is_writer:
            self.states.wait()
            self.metrics.sync()
            write_json(self.path / RESULT, result)

    def log(self, line: dict[str, Any]) -> None:
        """Adds a line to the metrics.

        Raises:
          InputError: If the directory was moved or removed meanwhile.
          OSError: If it cannot be written.
        """
        if self.is_writer:
            self.check_place()
            self.metrics.log(line)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a file that is whole or absent."""
    write_whole(path, json.dumps(values, indent=2) + "\n")


def _is_precious(path: Path) -> bool:
    """False for what a process leaves that was killed before it had written a recipe."""
    return path.name != LOCK and not path.name.startswith(f".{RECIPE}.")


def _fate(lock: TextIO) -> str:
    """What became of the folder of an open file."""
    try:
        place = os.readlink(f"/proc/self/fd/{lock.fileno()}")
    except OSError:
        return "moved or removed"
    is_gone = place.endswith(" (deleted)")
    return "removed" if is_gone else f"moved (to {Path(place).parent})"
