"""How does a run pass, from its first step or its last saved one to its result?"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from regvit_jax import checkpoint
from regvit_jax.data import Source
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from train.batches import open_splits, train_batches
from train.evaluate import evaluate
from train.interrupt import listen
from train.optim import make_optimizer, make_schedule
from train.progress import ProgressLine
from train.recipe import Recipe
from train.rundir import RunDirectory
from train.state import TrainState
from train.step import check_devices, first_state, make_train_step
from train.watch import StepWatch


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


def train(recipe: Recipe, directory: Path) -> Outcome:
    """Trains until the recipe's last step, from the newest state that the directory holds.

    Raises:
      InputError: Before anything is compiled or written, if data, devices and directory do not fit
        the recipe; later, if the loss is not a number.
    """
    source, val_source = open_splits(recipe.data.data)
    recipe = for_classes(recipe, len(source.class_names))
    total = recipe.total_steps(len(source))
    check_devices(recipe.data.batch_size)
    run = RunDirectory.claim(directory, recipe)
    if result := run.result():
        return Outcome(total, total, result, was_finished=True)

    # Set up: a fresh state, or the newest saved one.
    preprocess = Preprocess.square(recipe.model.image_size)
    model = DeiT3(recipe.model, dtype=jnp.dtype(recipe.dtype))
    schedule = make_schedule(recipe.optim, recipe.epochs, recipe.steps_per_epoch(len(source)))
    optimizer = make_optimizer(recipe.optim, schedule)
    fresh = functools.partial(first_state, model, optimizer, recipe.seed)
    state = run.states.restore(jax.eval_shape(fresh)) or fresh()
    first = int(state.step)
    run.forget_after(first)
    train_step = make_train_step(model, optimizer, recipe, preprocess)
    line = ProgressLine(first, total, recipe.data.batch_size)
    watch = StepWatch(run, recipe.log_steps, schedule, line)
    save_model = functools.partial(evaluate_and_save, run, recipe, val_source, preprocess)

    with listen() as stop:
        batches = train_batches(source, recipe, preprocess, first, total)
        for step, batch in enumerate(batches, start=first + 1):
            state, metrics = train_step(state, batch)
            watch.add(step, metrics)

            # Nothing is saved before the losses so far are known to be numbers.
            if step % recipe.save_steps == 0 or step == total or stop.is_made:
                watch.wait_for_all()
                run.states.save(state)
            if stop.is_made:
                batches.close()
                return Outcome(step, total, None, signal=stop.signal)
            if step % recipe.eval_steps == 0 and step < total:
                watch.wait_for_all()
                save_model(state)

    result = save_model(state)
    run.finish(result)
    return Outcome(total, total, result)


def for_classes(recipe: Recipe, num_classes: int) -> Recipe:
    """The recipe with a head for the data's classes."""
    model = dataclasses.replace(recipe.model, num_classes=num_classes)
    return dataclasses.replace(recipe, model=model)


def evaluate_and_save(
    run: RunDirectory, recipe: Recipe, source: Source, preprocess: Preprocess, state: TrainState
) -> dict[str, Any]:
    """Evaluates the weights, writes them as the run's checkpoint, and returns what was found."""
    model = DeiT3(recipe.model, dtype=jnp.dtype(recipe.dtype))
    accuracy = evaluate(model, state.params, source, preprocess)
    found = {"step": int(state.step), "data": source.name, **accuracy.to_json()}
    run.log(found)
    info = checkpoint.CheckpointInfo(
        model=recipe.model,
        source={"kind": "training run", "recipe": recipe.to_json()},
        class_names=source.class_names,
        preprocess=preprocess,
        metrics=found,
    )
    checkpoint.save(run.model_path, state.params, info, overwrite=True)
    return found
