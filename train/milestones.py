"""What is due after a step besides the next one, and was it done before the run was interrupted?

After some steps a state is saved, an epoch's weights are kept, the model is evaluated. A run that
was killed between a state and the rest does the rest first, so that it ends as if nothing had been.
"""

from pathlib import Path
from typing import Any

import jax.numpy as jnp

from regvit_jax import checkpoint
from regvit_jax.checkpoint import Params
from regvit_jax.interrupt import StopRequest
from regvit_jax.model import DeiT3
from regvit_jax.train.batches import Data
from regvit_jax.train.evaluate import evaluate
from regvit_jax.train.hosts import from_first_json
from regvit_jax.train.recipe import Recipe
from regvit_jax.train.rundir import EMA, RunDirectory
from regvit_jax.train.state import TrainState
from regvit_jax.train.token_labels import without_readout


class Milestones:
    """The milestones of one run.

    Args:
      run: Where everything is written.
      recipe: Says after which steps what is due.
      data: What the model learns from and is measured on.
      total: Steps of the whole run.
      stop: Ends an evaluation early.
    """

    def __init__(
        self, run: RunDirectory, recipe: Recipe, data: Data, total: int, stop: StopRequest
    ) -> None:
        self.run, self.recipe, self.data, self.total, self.stop = run, recipe, data, total, stop
        self.model = DeiT3(recipe.model, dtype=jnp.dtype(recipe.dtype))
        self.steps_per_epoch = recipe.steps_per_epoch(len(data.train))
        self.best = run.metrics.best_share() if run.is_writer else None
        self.result: dict[str, Any] | None = None
        """What the evaluation after the last step found."""

    def catch_up(self, state: TrainState) -> None:
        """Does what is due after the step that the run goes on from, and was not done.

        Raises:
          InputError: If a validation image cannot be read.
          Interrupted: If the run is to stop.
        """
        step = int(state.step)
        epoch = self.kept_epoch(step)
        if epoch is not None and not (self.run.epoch_path(epoch) / checkpoint.CONFIG_FILE).exists():
            self.keep_epoch(state, epoch)
        if self.is_evaluated(step):
            found = from_first_json(self._evaluation_at(step))
            self._take(step, self.evaluate(state) if found is None else found)

    def meet(self, state: TrainState) -> None:
        """Does what is due after a step that was just taken.

        Raises:
          InputError: If a validation image cannot be read.
          Interrupted: If the run is to stop.
        """
        step = int(state.step)
        if (epoch := self.kept_epoch(step)) is not None:
            self.keep_epoch(state, epoch)
        if self.is_evaluated(step):
            self._take(step, self.evaluate(state))

    def is_due(self, step: int) -> bool:
        """Whether anything is."""
        return self.kept_epoch(step) is not None or self.is_evaluated(step)

    def kept_epoch(self, step: int) -> int | None:
        """The epoch, counted from 0, that ends with a step and whose weights are kept."""
        epoch, rest = divmod(step, self.steps_per_epoch)
        return epoch - 1 if step and not rest and self.recipe.keeps_epoch(epoch - 1) else None

    def is_evaluated(self, step: int) -> bool:
        """Whether the model after a step is evaluated."""
        return step > 0 and (step % self.recipe.eval_steps == 0 or step >= self.total)

    def keep_epoch(self, state: TrainState, epoch: int) -> None:
        """Writes an epoch's weights."""
        found = {"step": int(state.step), "epoch": epoch}
        self._save(self.run.epoch_path(epoch), without_readout(state.params), found)

    def evaluate(self, state: TrainState) -> dict[str, Any]:
        """Evaluates the weights, writes them as the run's checkpoint, and returns what was found.

        The moving average of the weights, where there is one, is evaluated and written too; the
        best weights of the run so far are kept. The line in the metrics comes last: where it is,
        all the rest is.
        """
        run, step, params = self.run, int(state.step), without_readout(state.params)
        if step >= self.total:  # the work of all steps, should an image stop the evaluation
            self._save(run.model_path, params, {"step": step})
        found: dict[str, Any] = {"step": step, "data": self.data.val.name}
        found |= self._accuracy(params)
        if state.ema is not None:
            ema = without_readout(state.ema)
            averaged = self._accuracy(ema)
            found |= {f"ema_{name}": averaged[name] for name in ("top1", "top5")}
            self._save(run.path / EMA, ema, found | averaged)
        self._save(run.model_path, params, found)
        share = found["top1"]["share"]
        if self.best is None or self.best < share:
            self._save(run.best_path, params, found)
            self.best = share
        run.log(found)
        return found

    def _take(self, step: int, found: dict[str, Any]) -> None:
        if step >= self.total:
            self.result = found

    def _evaluation_at(self, step: int) -> dict[str, Any] | None:
        return self.run.metrics.evaluation_at(step) if self.run.is_writer else None

    def _accuracy(self, params: Params) -> dict[str, Any]:
        data, skip = self.data, self.recipe.data.skip_unreadable
        return evaluate(self.model, params, data.val, data.preprocess, skip, self.stop).to_json()

    def _save(self, path: Path, params: Params, found: dict[str, Any]) -> None:
        """Writes weights as a checkpoint directory; what was there is replaced."""
        if not self.run.is_writer:
            return
        self.run.check_place()
        info = checkpoint.CheckpointInfo(
            model=self.recipe.model,
            source={"kind": "training run", "recipe": self.recipe.to_json()},
            class_names=self.data.val.class_names,
            preprocess=self.data.preprocess,
            metrics=found,
        )
        checkpoint.save(path, params, info, overwrite=True)
