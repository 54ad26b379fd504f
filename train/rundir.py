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

import fcntl
import json
import os
from pathlib import Path
from typing import Any, TextIO

from regvit_jax import checkpoint
from regvit_jax.errors import InputError
from regvit_jax.train.recipe import Recipe, differences
from regvit_jax.train.state import StateStore

RECIPE, METRICS, STEPS, RESULT = "recipe.json", "metrics.jsonl", "steps", "result.json"
BEST, EMA, EPOCHS, EVENTS, LOCK = "best", "ema", "epochs", "tensorboard", ".lock"


class RunDirectory:
    """The directory of one run; of several processes, only the first one writes.

    Args:
      path: Of the directory.
      is_writer: Whether this process writes.
    """

    def __init__(self, path: Path, is_writer: bool = True) -> None:
        self.path, self.is_writer = path, is_writer
        self.states = StateStore(path / STEPS)
        self._lock: TextIO | None = None
        self._events: Any = None

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
            except InputError:
                run.close()
                raise
        run.states.kept = recipe.kept_states
        return run

    def _claim(self, recipe: Recipe, allow_changes: bool) -> None:
        path = self.path
        if (path / RECIPE).is_file():
            self.lock()
            if changes := differences(self.recipe(), recipe):
                if not allow_changes:
                    raise InputError(
                        f"{path} is the run of another configuration:\n  "
                        + "\n  ".join(changes)
                        + "\nChoose another --out, the same configuration to continue, or "
                        "--allow-changes to continue with this one."
                    )
                self.log({"step": self.last_step(), "changed": changes})
                (path / RESULT).unlink(missing_ok=True)
                write_json(path / RECIPE, recipe.to_json())
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is no training run. Choose another --out.")
        else:
            path.mkdir(parents=True, exist_ok=True)
            self.lock()
            write_json(path / RECIPE, recipe.to_json())

    def lock(self) -> None:
        """Keeps other processes out until this one ends, however it ends.

        Raises:
          InputError: If another process is in.
        """
        self._lock = (self.path / LOCK).open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"Another process is training in {self.path}. Wait for it, or choose another --out."
            ) from None

    def close(self) -> None:
        """Waits for what is being written, and lets other processes in."""
        try:
            self.states.wait()
        finally:
            if self._events is not None:
                self._events.close()
            if self._lock is not None:
                self._lock.close()

    def last_step(self) -> int:
        """The newest saved step, 0 if there is none."""
        return max(self.states.steps(), default=0)

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
        try:
            return Recipe.from_json(json.loads((self.path / RECIPE).read_text()))
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path / RECIPE} is damaged ({error}). Put it back, or choose another --out."
            ) from error

    def result(self) -> dict[str, Any] | None:
        """The last evaluation of a finished run, None before."""
        path = self.path / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run as finished."""
        if self.is_writer:
            write_json(self.path / RESULT, result)

    def log(self, line: dict[str, Any]) -> None:
        """Adds a line to the metrics, and its numbers to TensorBoard's."""
        if not self.is_writer:
            return
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._events is None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self.path / EVENTS), purge_step=line["step"])
        for name, value in line.items():
            if isinstance(value, int | float) and name != "step":
                self._events.add_scalar(name, value, line["step"])
            elif isinstance(value, dict) and "share" in value:
                self._events.add_scalar(name, value["share"], line["step"])

    def forget_after(self, step: int) -> None:
        """Drops metrics of steps that are about to be taken again, and a line cut short."""
        path = self.path / METRICS
        if not self.is_writer or not path.is_file():
            return
        kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        _replace(path, "".join(line + "\n" for line in kept))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes a file that is whole or absent."""
    _replace(path, json.dumps(values, indent=2) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError):
        return float("inf")
