"""What must survive an interruption, and how is it kept? One folder a saved step.

A state is written beside its place by a thread, guarded by checksums and then renamed: it is whole
or absent. One that cannot be read back all the same is left out in favour of the one before.
"""

import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Int

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

logger = logging.getLogger(__name__)


class TrainState(NamedTuple):
    """All that a step reads and writes; the place in the data follows from the step."""

    step: Int[Array, ""]
    """Steps taken."""
    params: Params
    opt_state: optax.OptState
    ema: Params | None = None
    """Moving average of the parameters, if the recipe asks for one."""


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
        """The steps that were saved, in order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def save(self, state: TrainState) -> None:
        """Copies the state and begins to write it; waits for the one before to be written.

        Raises:
          OSError: If the one before could not be written.
        """
        self.wait()
        arrays = {name: np.array(leaf, copy=True) for name, leaf in _named(state)}
        self._pending = self._pool.submit(self._write, int(arrays["step"]), arrays)

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          OSError: If it could not be.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest state that can be read, or None; those that are damaged are removed.

        Args:
          template: Shapes and types of the state, as `jax.eval_shape` tells them.

        Raises:
          InputError: If a state is of another model or optimizer.
        """
        for step in reversed(self.steps()):
            path = self._path(step)
            try:
                described = describe_arrays(path)
                _check(path, described, template)
                arrays = read_arrays(path, described)
            except DamagedArraysError as error:
                logger.warning("The state of step %d is damaged and left out: %s", step, error)
                shutil.rmtree(path)
                continue
            leaves = [arrays[name] for name, _ in _named(template)]
            return jax.tree.unflatten(jax.tree.structure(template), leaves)
        return None

    def _write(self, step: int, arrays: Arrays) -> None:
        """Writes a state and removes the oldest beyond those that are kept."""
        partial = self.directory / f".{step}.partial-{os.getpid()}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            write_arrays(partial, arrays)
            shutil.rmtree(self._path(step), ignore_errors=True)
            partial.rename(self._path(step))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        for old in self.steps()[: -self.kept]:
            shutil.rmtree(self._path(old))

    def _path(self, step: int) -> Path:
        return self.directory / str(step)


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
