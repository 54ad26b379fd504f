"""How does a run pass, from its first step or its last saved one to its result?"""

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from regvit_jax import checkpoint
from regvit_jax.checkpoint import Params
from regvit_jax.data import Source
from regvit_jax.model import DeiT3
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.batches import TrainBatches, open_splits
from regvit_jax.train.evaluate import evaluate
from regvit_jax.train.flops import matrix_rate, training_flops
from regvit_jax.train.hosts import any_of, from_first, from_first_json, is_first
from regvit_jax.train.initial import check_init, start_params
from regvit_jax.train.interrupt import StopRequest, listen
from regvit_jax.train.optim import make_optimizer, make_schedule
from regvit_jax.train.progress import ProgressLine
from regvit_jax.train.recipe import Recipe, describe
from regvit_jax.train.rundir import EMA, RunDirectory
from regvit_jax.train.state import TrainState
from regvit_jax.train.step import check_devices, first_state, init_rng, make_train_step
from regvit_jax.train.watch import StepCost, StepWatch


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


class Data(NamedTuple):
    """What a run learns from and is measured on."""

    train: Source
    val: Source
    preprocess: Preprocess


def train(recipe: Recipe, directory: Path, allow_changes: bool = False) -> Outcome:
    """Trains until the recipe's last step, from the newest state that the directory holds.

    Args:
      recipe: What to train, on what, and how.
      directory: Of the run.
      allow_changes: Go on with another recipe than the run was started with.

    Raises:
      InputError: Before anything is compiled or written, if data, devices, start and directory do
        not fit the recipe; later, if the loss is not a number.
    """
    source, val_source = open_splits(recipe.data.data)
    data = Data(source, val_source, Preprocess.square(recipe.model.image_size))
    recipe = for_classes(recipe, len(source.class_names))
    total = recipe.total_steps(len(source))
    check_devices(recipe.data)
    check_init(recipe)
    run = RunDirectory.claim(directory, recipe, is_first(), allow_changes)
    try:
        if result := from_first_json(run.result()):
            return Outcome(total, total, result, was_finished=True)
        if run.is_writer:
            sys.stderr.write(describe(recipe))
        return _train(recipe, run, data, total)
    finally:
        run.close()


def _train(recipe: Recipe, run: RunDirectory, data: Data, total: int) -> Outcome:
    # Set up: a fresh state, or the newest saved one.
    model = DeiT3(recipe.model, dtype=jnp.dtype(recipe.dtype))
    steps_per_epoch = recipe.steps_per_epoch(len(data.train))
    schedule = make_schedule(recipe.optim, recipe.epochs, steps_per_epoch)
    optimizer = make_optimizer(recipe.optim, schedule, recipe.trainable)
    state = _newest_state(recipe, run, data, optimizer)
    first = int(state.step)
    run.forget_after(first)
    train_step = make_train_step(model, optimizer, recipe, data.preprocess)
    batches = TrainBatches(
        data.train,
        recipe,
        data.preprocess,
        first,
        total,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    peak = matrix_rate(recipe.dtype) * jax.process_count()
    cost = StepCost(training_flops(recipe.model), peak, lambda: batches.waited_seconds)
    line = ProgressLine(first, total, recipe.data.batch_size)
    watch = StepWatch(run, recipe.log_steps, schedule, line, cost)

    with listen() as stop:
        for step, batch in enumerate(batches, start=first + 1):
            state, metrics = train_step(state, batch)
            watch.add(step, metrics)
            epoch, is_last = step // steps_per_epoch - 1, step == total
            is_kept = step % steps_per_epoch == 0 and recipe.keeps_epoch(epoch)
            must_stop = stop.is_made
            if jax.process_count() > 1:  # all must stop after the same step
                must_stop = step % recipe.log_steps == 0 and _agree_to_stop(watch, stop)

            # Nothing is saved before the losses so far are known to be numbers.
            if step % recipe.save_steps == 0 or is_last or must_stop:
                watch.wait_for_all()
                if run.is_writer:
                    run.states.save(state)
            if is_kept:
                watch.wait_for_all()
                found = {"step": step, "epoch": epoch}
                save_model(run, run.epoch_path(epoch), recipe, data, state.params, found)
            if must_stop and not is_last:
                batches.close()
                number = stop.signal or signal.SIGTERM  # another process was asked to stop
                return Outcome(step, total, None, signal=number, unreadable=len(batches.unreadable))
            if step % recipe.eval_steps == 0 and not is_last:
                watch.wait_for_all()
                evaluate_and_save(run, recipe, data, state)

    result = evaluate_and_save(run, recipe, data, state)
    run.finish(result)
    return Outcome(total, total, result, unreadable=len(batches.unreadable))


def _agree_to_stop(watch: StepWatch, stop: StopRequest) -> bool:
    """Whether any process was asked to stop."""
    watch.wait_for_all()  # what processes send one another must not cross the steps' own sums
    return any_of(stop.is_made)


def _newest_state(
    recipe: Recipe, run: RunDirectory, data: Data, optimizer: optax.GradientTransformation
) -> TrainState:
    """The newest saved state, or the one before the first step; the same in all processes."""

    def fresh() -> TrainState:
        params = start_params(recipe, data.train.class_names, init_rng(recipe.seed))
        return first_state(params, optimizer, recipe)

    params = jax.eval_shape(lambda: DeiT3(recipe.model).init(init_rng(0), _one_image(recipe)))
    template = jax.eval_shape(lambda p: first_state(p, optimizer, recipe), params["params"])
    found = run.states.restore(template) if run.is_writer else None
    if not int(from_first(np.int32(found is not None))):
        return fresh()
    if found is None:
        found = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), template)
    return from_first(found)


def _one_image(recipe: Recipe) -> jax.Array:
    return jnp.zeros((1, recipe.model.image_size, recipe.model.image_size, 3))


def for_classes(recipe: Recipe, num_classes: int) -> Recipe:
    """The recipe with a head for the data's classes."""
    model = dataclasses.replace(recipe.model, num_classes=num_classes)
    return dataclasses.replace(recipe, model=model)


def evaluate_and_save(
    run: RunDirectory, recipe: Recipe, data: Data, state: TrainState
) -> dict[str, Any]:
    """Evaluates the weights, writes them as the run's checkpoint, and returns what was found.

    The moving average of the weights, where there is one, is evaluated and written too; the best
    weights of the run so far are kept.
    """
    model = DeiT3(recipe.model, dtype=jnp.dtype(recipe.dtype))
    found: dict[str, Any] = {"step": int(state.step), "data": data.val.name}
    found |= evaluate(model, state.params, data.val, data.preprocess).to_json()
    if state.ema is not None:
        accuracy = evaluate(model, state.ema, data.val, data.preprocess).to_json()
        found |= {f"ema_{name}": value for name, value in accuracy.items()}
        as_if_raw = found | accuracy
        save_model(run, run.path / EMA, recipe, data, state.ema, as_if_raw)
    run.log(found)
    save_model(run, run.model_path, recipe, data, state.params, found)
    best = run.best_path
    if run.is_writer and (not best.is_dir() or _top1(best) < found["top1"]["share"]):
        save_model(run, best, recipe, data, state.params, found)
    return found


def save_model(
    run: RunDirectory,
    path: Path,
    recipe: Recipe,
    data: Data,
    params: Params,
    found: dict[str, Any],
) -> None:
    """Writes weights as a checkpoint directory; what was there is replaced."""
    if not run.is_writer:
        return
    source: dict[str, Any] = {"kind": "training run", "recipe": recipe.to_json()}
    info = checkpoint.CheckpointInfo(
        model=recipe.model,
        source=source,
        class_names=data.val.class_names,
        preprocess=data.preprocess,
        metrics=found,
    )
    checkpoint.save(path, params, info, overwrite=True)


def _top1(path: Path) -> float:
    return checkpoint.read_info(path).metrics["top1"]["share"]
