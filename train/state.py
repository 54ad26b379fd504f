"""What must survive an interruption, and how is it kept? One folder a saved step.

A state is written by a thread, guarded by checksums: it is whole or absent. One that was damaged
later is set aside, never removed, in favour of the one before.
"""

import json
import logging
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import jax
import numpy as np
import optax
from jaxtyping import Array, Int

from regvit_jax import strict_json
from regvit_jax.arrays import (
    Arrays,
    DamagedArraysError,
    Described,
    describe_arrays,
    read_arrays,
    write_arrays,
)
from regvit_jax.checkpoint import Params
from regvit_jax.errors import InputError
from regvit_jax.whole import appearing, vanish

LOSSES = "losses.json"
"""In a state's folder: the losses that no line of the metrics tells yet."""
DAMAGED = ".damaged"

logger = logging.getLogger(__name__)


class TrainState(NamedTuple):
    """All that a step reads and writes; the place in the data follows from the step."""

    step: Int[Array, ""]
    """Steps taken."""
    params: Params
    opt_state: optax.OptState
    ema: Params | None = None
    """Moving average of the parameters, if the recipe asks for one."""


class Saved(NamedTuple):
    """What a folder of a saved step holds."""

    state: TrainState
    losses: list[float]
    """Losses of the newest steps, which the metrics do not hold yet."""


class StateStore:
    """The saved states of one run, the newest few.

    Args:
      directory: Where they are, in folders named by the step.
      kept: How many.
    """

    def __init__(self, directory: Path, kept: int = 2) -> None:
        self.directory, self.kept = directory.resolve(), kept
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="save-state")
        self._pending: Future | None = None

    def steps(self) -> list[int]:
        """The steps that were saved, in order.

        Raises:
          OSError: If the folder cannot be listed.
        """
        return sorted(int(name) for name in self._names() if name.isascii() and name.isdecimal())

    def save(self, state: TrainState, losses: Sequence[float] = ()) -> None:
        """Copies the state and begins to write it; waits for the one before to be written.

        Args:
          state: After some step.
          losses: Of the newest steps, which the metrics do not tell yet.

        Raises:
          OSError: If the one before could not be written.
        """
        self.wait()
        arrays = {name: np.array(leaf, copy=True) for name, leaf in _named(state)}
        self._pending = self._pool.submit(self._write, int(arrays["step"]), arrays, list(losses))

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          OSError: If it could not be; says which state is the newest whole one.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            try:
                pending.result()
            except OSError as error:
                self._tell(error)

    def check(self) -> None:
        """Tells of a failure to write as soon as it has happened; waits for nothing.

        Raises:
          OSError: As `wait` does.
        """
        if self._pending is not None and self._pending.done():
            self.wait()

    def restore(self, template: TrainState) -> Saved | None:
        """The newest state that is whole, None if none was ever saved; nothing is removed.

        Damaged states are renamed, so that only who owns the run may call this.

        Args:
          template: Shapes and types of the state, as `jax.eval_shape` tells them.

        Raises:
          InputError: If a state is of another model or optimizer, or cannot be read for a reason
            other than damage, or if all that were saved are damaged.
        """
        for step in reversed(self.steps()):
            try:
                return self._read(self._path(step), template)
            except DamagedArraysError as error:
                if not _is_damage(error.__cause__):
                    self._refuse(step, error.__cause__ or error)
                aside = self._set_aside(step)
                logger.warning(
                    "The state of step %d is damaged (%s). It is now called %s, and the run goes "
                    "on from the state before.",
                    step,
                    error,
                    aside,
                )
            except OSError as error:
                self._refuse(step, error)
        if damaged := [name for name in self._names() if DAMAGED in name]:
            raise InputError(
                f"No saved state in {self.directory} can be read; damaged are {', '.join(damaged)}."
                " Put them back from a copy, under names without the ending. To start the run "
                f"anew, move the folder away: mv {self.directory} {self.directory}-damaged"
            )
        return None

    def _read(self, path: Path, template: TrainState) -> Saved:
        for _ in os.walk(path, onerror=_raise):  # a folder that may not be listed is not empty
            pass
        described = describe_arrays(path)
        _check(path, described, template)
        arrays = read_arrays(path, described)
        leaves = [arrays[name] for name, _ in _named(template)]
        state = jax.tree.unflatten(jax.tree.structure(template), leaves)
        return Saved(state, _read_losses(path / LOSSES))

    def _write(self, step: int, arrays: Arrays, losses: list[float]) -> None:
        """Writes a state and removes the oldest beyond those that are kept."""
        with appearing(self._path(step), replace=True) as partial:
            partial.mkdir()
            write_arrays(partial, arrays)
            (partial / LOSSES).write_text(json.dumps({"losses": losses}) + "\n")
        for old in self.steps()[: -self.kept]:
            vanish(self._path(old))

    def _set_aside(self, step: int) -> Path:
        """Gives a damaged state another name."""
        taken = self._names()
        names = (f"{step}{DAMAGED}{'-' * (n > 1)}{n if n > 1 else ''}" for n in range(1, 10**6))
        name = next(name for name in names if name not in taken)
        return self._path(step).rename(self.directory / name)

    def _refuse(self, step: int, error: BaseException) -> NoReturn:
        path = self._path(step)
        reason, place = getattr(error, "strerror", None), getattr(error, "filename", None)
        raise InputError(
            f"The state of step {step} cannot be read ({reason or error}: {place or path}). It is "
            "left as it is. Make it readable and run the same command again; to go on from the "
            f"state before, move {path} away."
        ) from error

    def _tell(self, error: OSError) -> NoReturn:
        """Raises an error of writing again, with what is safe."""
        steps = self.steps()
        newest = "no state is saved yet"
        if steps:
            newest = (
                f"the newest whole state is of step {steps[-1]}, where the same command goes on"
            )
        reason = f"{error.strerror or error} while a state was saved; {newest}"
        raise OSError(error.errno, reason, str(error.filename or self.directory)) from error

    def _names(self) -> list[str]:
        """What the folder holds, hidden files aside."""
        try:
            return sorted(p.name for p in self.directory.iterdir() if not p.name.startswith("."))
        except FileNotFoundError:
            return []

    def _path(self, step: int) -> Path:
        return self.directory / str(step)


def _is_damage(cause: BaseException | None) -> bool:
    """Whether a state is not as it was written, which reading it once more would not change."""
    if isinstance(cause, OSError):
        return isinstance(cause, FileNotFoundError)
    return not isinstance(cause, TypeError | AttributeError)


def _raise(error: OSError) -> NoReturn:
    raise error


def _read_losses(path: Path) -> list[float]:
    """The losses beside a state; none beside those of earlier versions."""
    if not path.exists():
        return []
    try:
        losses = strict_json.read_json(path).get("losses")
        return [
            strict_json.expect(loss, float, str(path))
            for loss in strict_json.expect(losses, list, str(path))
        ]
    except InputError as error:
        raise DamagedArraysError(str(error)) from error


def _named(state: TrainState) -> list[tuple[str, Any]]:
    """The leaves of a state, each with a name that tells its place."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _check(path: Path, found: Described, template: TrainState) -> None:
    expected = {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in _named(template)}
    names = sorted(expected.keys() | found.keys())
    wrong = [name for name in names if expected.get(name) != found.get(name)]
    if wrong:
        lines = [
            f"{name}: expected {expected.get(name, 'none')}, found {found.get(name, 'none')}"
            for name in wrong[:5]
        ]
        raise InputError(
            f"The state in {path} is of another model or optimizer; {len(wrong)} of {len(names)} "
            "arrays differ:\n  "
            + "\n  ".join(lines)
            + "\nContinue with the recipe that the run was "
            "started with, or choose another --out."
        )
