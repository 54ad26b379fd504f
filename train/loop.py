"""How does a run pass, from its first step or its last saved one to its result?"""

import contextlib
import dataclasses
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from regvit_jax.errors import InputError
from regvit_jax.interrupt import Interrupted, StopRequest, listen
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.batches import Data, TrainBatches, open_splits
from regvit_jax.train.flops import matrix_rate, training_flops
from regvit_jax.train.hosts import (
    all_together,
    any_of,
    before_the_end,
    from_first,
    from_first_json,
    is_first,
)
from regvit_jax.train.initial import check_init, start_params
from regvit_jax.train.metrics import Metrics
from regvit_jax.train.milestones import Milestones
from regvit_jax.train.optim import make_optimizer, make_schedule
from regvit_jax.train.progress import ProgressLine
from regvit_jax.train.recipe import Recipe, describe
from regvit_jax.train.rundir import RunDirectory
from regvit_jax.train.state import Saved, TrainState
from regvit_jax.train.step import check_devices, first_state, init_rng, make_train_step
from regvit_jax.train.token_labels import check_tokens, with_readout
from regvit_jax.train.watch import StepCost, StepWatch

BEFORE_THE_FIRST_STEP = "Nothing is lost; the same command continues."


class Outcome(NamedTuple):
    """How a call of `train` ended."""

    step: int
    total_steps: int
    result: dict[str, Any] | None
    """The last evaluation; None if the run was stopped before."""
    was_finished: bool = False
    """The run had been finished before, and nothing was done."""
    signal: int | None = None
    """What stopped the run."""
    unreadable: int = 0
    """Images that could not be read and were replaced by others."""


def train(recipe: Recipe, directory: Path, allow_changes: bool = False) -> Outcome:
    """Trains until the recipe's last step, from the newest state that the directory holds.

    Args:
      recipe: What to train, on what, and how.
      directory: Of the run.
      allow_changes: Go on with another recipe than the run was started with.

    Raises:
      InputError: Before anything is compiled or written, if data, devices, start and directory do
        not fit the recipe; later, if the loss is not a number or an image cannot be read.
      OSError: If something cannot be written.
    """
    with listen() as stop, all_together():
        source, val_source = open_splits(recipe.data.data)
        data = Data(source, val_source, Preprocess.square(recipe.model.image_size))
        recipe = for_classes(recipe, len(source.class_names))
        total = recipe.total_steps(len(source))
        check_devices(recipe.data)
        check_tokens(recipe, source)
        check_init(recipe)
        run = RunDirectory.claim(directory, recipe, is_first(), allow_changes)
        before_the_end(run.states.wait)
        with contextlib.closing(run):
            if result := from_first_json(run.result() if run.is_writer else None):
                return Outcome(total, total, result, was_finished=True)
            if run.is_writer:
                sys.stderr.write(describe(recipe))
            if jax.process_count() == 1:  # the first step compiles for long
                stop.how_to_go_on = BEFORE_THE_FIRST_STEP
            return _Passage(recipe, run, data, total, stop).pass_through()


class _Passage:
    """The way of one process from the newest saved state to the last step."""

    def __init__(
        self, recipe: Recipe, run: RunDirectory, data: Data, total: int, stop: StopRequest
    ) -> None:
        self.recipe, self.run, self.total, self.stop = recipe, run, total, stop
        steps_per_epoch = recipe.steps_per_epoch(len(data.train))
        schedule = make_schedule(recipe.optim, recipe.epochs, steps_per_epoch)
        optimizer = make_optimizer(recipe.optim, schedule, recipe.trainable)
        self.state, losses = _newest_state(recipe, run, data, optimizer)
        self.step = self.saved_step = int(self.state.step)
        if run.is_writer:
            _forget_after(self.step, run.metrics, recipe)
        model = DeiT3(recipe.model, dtype=jnp.dtype(recipe.dtype))
        self.train_step = make_train_step(model, optimizer, recipe, data.preprocess)
        self.milestones = Milestones(run, recipe, data, total, stop)
        processes = jax.process_index(), jax.process_count()
        self.batches = TrainBatches(
            data.train, recipe, data.preprocess, self.step, total, *processes
        )
        peak = matrix_rate(recipe.dtype) * jax.process_count()
        cost = StepCost(training_flops(recipe.model), peak, lambda: self.batches.waited_seconds)
        line = ProgressLine(self.step, total, recipe.data.batch_size)
        self.watch = StepWatch(run, recipe.log_steps, schedule, line, cost, losses)

    def pass_through(self) -> Outcome:
        """Takes all steps that are left, or those until somebody asks the run to stop."""
        try:
            with self._saved_first():
                self.milestones.catch_up(self.state)
            while self.step < self.total and not self._must_stop():
                self._take_step()
        except Interrupted:
            pass  # an evaluation was given up; the next start does it first
        finally:
            self.batches.close()
        unreadable = len(self.batches.unreadable)
        if (result := self.milestones.result) is None:
            self._save()
            number = self.stop.signal or signal.SIGTERM  # another process was asked to stop
            return Outcome(self.step, self.total, None, signal=number, unreadable=unreadable)
        self.run.finish(result)
        return Outcome(self.total, self.total, result, unreadable=unreadable)

    def _take_step(self) -> None:
        """Takes one step and does what is due after it."""
        with self._saved_first():
            batch = next(self.batches)
        self.state, metrics = self.train_step(self.state, batch)
        self.stop.how_to_go_on = None  # from now on there is something to save
        self.step += 1
        self.watch.add(self.step, metrics)
        self.run.states.check()
        if self.step % self.recipe.save_steps == 0 or self.step == self.total:
            self._save()
        if self.milestones.is_due(self.step):
            self.watch.wait_for_all()
            with self._saved_first():
                self.milestones.meet(self.state)

    def _must_stop(self) -> bool:
        """Whether to stop here; of several processes, all stop after the same step."""
        if jax.process_count() == 1:
            return self.stop.is_made
        if self.step % self.recipe.log_steps:
            return False
        self.watch.wait_for_all()  # what processes send one another must not cross the steps' sums
        return any_of(self.stop.is_made)

    def _save(self) -> None:
        """Saves the state, unless it is; first, the losses so far must prove to be numbers."""
        if self.saved_step != self.step:
            self.watch.wait_for_all()
            self.run.save(self.state, self.watch.losses)
            self.saved_step = self.step

    @contextlib.contextmanager
    def _saved_first(self) -> Iterator[None]:
        """Saves the steps so far before bad input or a failing disk ends the run."""
        try:
            yield
        except OSError:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                self._save()
                self.run.states.wait()
            raise
        except InputError as error:
            self._save()
            self.run.states.wait()
            if not (self.run.is_writer and self.step):
                raise
            raise InputError(
                f"{error} The {self.step} steps so far are saved: the same command continues there."
            ) from error


def _forget_after(step: int, metrics: Metrics, recipe: Recipe) -> None:
    """Drops metrics of steps to be taken again; of a run that starts anew, they are kept beside."""
    if step == 0 and metrics.last_step() >= 2 * recipe.save_steps:
        sys.stderr.write(
            "There is no saved state: the run starts anew. What it had reported is in "
            f"{metrics.keep_beside()}.\n"
        )
    metrics.forget_after(step)


def _newest_state(
    recipe: Recipe, run: RunDirectory, data: Data, optimizer: optax.GradientTransformation
) -> Saved:
    """The newest saved state, or the one before the first step; the same in all processes."""

    def fresh() -> Saved:
        rng = init_rng(recipe.seed)
        params = start_params(recipe, data.train.class_names, rng)
        params = with_readout(params, recipe, data.train, rng)
        return Saved(first_state(params, optimizer, recipe), [])

    def blank() -> TrainState:
        params = DeiT3(recipe.model).init(init_rng(0), _one_image(recipe))["params"]
        params = with_readout(params, recipe, data.train, init_rng(0))
        return first_state(params, optimizer, recipe)

    template = jax.eval_shape(blank)
    found = run.states.restore(template) if run.is_writer else None
    if not int(from_first(np.int32(found is not None))):
        return fresh()
    if found is None:
        found = Saved(jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template), [])
    return found._replace(state=from_first(found.state))


def _one_image(recipe: Recipe) -> jax.Array:
    return jnp.zeros((1, recipe.model.image_size, recipe.model.image_size, 3))


def for_classes(recipe: Recipe, num_classes: int) -> Recipe:
    """The recipe with a head for the data's classes."""
    model = dataclasses.replace(recipe.model, num_classes=num_classes)
    return dataclasses.replace(recipe, model=model)
