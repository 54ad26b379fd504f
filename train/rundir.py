"""What does a run leave behind? One directory, which knows whose it is and how far it came.

recipe.json     the configuration, every default written out
metrics.jsonl   loss, rate and speed, one line every few steps, and each evaluation
steps/<n>/      states from which an interrupted run continues
model/          the newest evaluated weights: a checkpoint directory for every command
result.json     the last evaluation; it exists once the run is finished
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from regvit_jax import checkpoint
from regvit_jax.errors import InputError
from train.recipe import Recipe, differences
from train.state import StateStore

RECIPE, METRICS, STEPS, RESULT = "recipe.json", "metrics.jsonl", "steps", "result.json"


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The directory of one run."""

    path: Path

    @classmethod
    def claim(cls, path: Path, recipe: Recipe) -> "RunDirectory":
        """The directory of a recipe's run: a new one, or that of the same recipe.

        Raises:
          InputError: If it belongs to another recipe, or holds something else.
        """
        run = cls(path)
        if (path / RECIPE).is_file():
            if changes := differences(run.recipe(), recipe):
                raise InputError(
                    f"{path} is the run of another configuration:\n  "
                    + "\n  ".join(changes)
                    + "\nChoose another --out, or the same configuration to continue."
                )
        elif path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InputError(f"{path} exists and is no training run. Choose another --out.")
        else:
            path.mkdir(parents=True, exist_ok=True)
            write_json(path / RECIPE, recipe.to_json())
        return run

    @property
    def states(self) -> StateStore:
        return StateStore(self.path / STEPS)

    @property
    def model_path(self) -> Path:
        return self.path / checkpoint.MODEL_FOLDER

    def recipe(self) -> Recipe:
        """The configuration that the run was started with.

        Raises:
          InputError: If `recipe.json` cannot be read.
        """
        try:
            return Recipe.from_json(json.loads((self.path / RECIPE).read_text()))
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise InputError(f"{self.path / RECIPE} is damaged ({error}).") from error

    def result(self) -> dict[str, Any] | None:
        """The last evaluation of a finished run, None before."""
        path = self.path / RESULT
        return json.loads(path.read_text()) if path.is_file() else None

    def finish(self, result: dict[str, Any]) -> None:
        """Marks the run as finished."""
        write_json(self.path / RESULT, result)

    def log(self, line: dict[str, Any]) -> None:
        """Adds a line to the metrics."""
        with (self.path / METRICS).open("a") as file:
            file.write(json.dumps(line) + "\n")

    def forget_after(self, step: int) -> None:
        """Drops metrics of steps that are about to be taken again, and a line cut short."""
        path = self.path / METRICS
        if not path.is_file():
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
