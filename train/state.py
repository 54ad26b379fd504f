"""What must survive an interruption, and how is it kept? One folder a saved step.

Host arrays are saved, so a state opens on any number of devices. Orbax writes into a temporary
folder and renames it; a folder that cannot be read back is skipped in favour of the one before.
"""

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, Int

from regvit_jax.checkpoint import Params

KEPT_STATES = 2

logger = logging.getLogger(__name__)


class TrainState(NamedTuple):
    """All that a step reads and writes; the place in the data follows from the step."""

    step: Int[Array, ""]
    """Steps taken."""
    params: Params
    opt_state: optax.OptState


def to_host(state: TrainState) -> TrainState:
    """The state as host arrays of its own, which the next step cannot overwrite."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), state)


class StateStore:
    """The saved states of one run, the newest few.

    Args:
      directory: Where they are, in folders named by the step.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()

    def steps(self) -> list[int]:
        """The steps that were saved, in order."""
        if not self.directory.is_dir():
            return []
        return sorted(int(p.name) for p in self.directory.iterdir() if p.name.isdigit())

    def save(self, state: TrainState) -> None:
        """Writes the state, whole or not at all, and removes the oldest beyond two."""
        self.directory.mkdir(parents=True, exist_ok=True)
        host = to_host(state)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(self._path(int(host.step)), host, force=True)
        for step in self.steps()[:-KEPT_STATES]:
            shutil.rmtree(self._path(step))

    def restore(self, template: TrainState) -> TrainState | None:
        """The newest state that can be read, or None; those that cannot are removed.

        Args:
          template: Shapes and types of the state, as `jax.eval_shape` tells them.
        """
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
        for step in reversed(self.steps()):
            try:
                with ocp.StandardCheckpointer() as checkpointer:
                    state = checkpointer.restore(self._path(step), zeros)
            except (OSError, ValueError, KeyError, TypeError) as error:
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                logger.warning("The state of step %d is damaged and left out: %s", step, reason)
                shutil.rmtree(self._path(step))
                continue
            return state
        return None

    def _path(self, step: int) -> Path:
        return self.directory / str(step)
