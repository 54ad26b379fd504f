"""How long will training take? Arithmetic to be done, over what the devices can do."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

from regvit_jax.data import open_source
from regvit_jax.errors import InputError
from regvit_jax.train.flops import training_flops
from regvit_jax.train.recipe import Recipe

KNOWN_SIZES = {"imagenet2012": 1_281_167, "imagenette": 9_469}
"""Training images of data sets that need not be there yet."""


class PlannedRun(NamedTuple):
    """One run to come."""

    num_registers: int
    num_steps: int
    num_images: int
    """Seen over the whole run."""
    flops_per_image: int
    """Forward and backward."""

    @property
    def flops(self) -> int:
        return self.num_images * self.flops_per_image

    def hours(self, rate: float) -> float:
        """At so many operations per second, all devices together."""
        return self.flops / rate / 3600


def plan_runs(recipe: Recipe, registers: Sequence[int]) -> list[PlannedRun]:
    """The runs of a recipe with these numbers of registers.

    Raises:
      InputError: If there is no run, or the number of training images is not known.
    """
    if not registers:
        raise InputError("Name at least one number of registers after --registers, such as 0 4.")
    images = _count_images(recipe.data.data)
    steps = recipe.total_steps(images)
    models = [dataclasses.replace(recipe.model, num_registers=number) for number in registers]
    return [
        PlannedRun(
            model.num_registers, steps, steps * recipe.data.batch_size, training_flops(model)
        )
        for model in models
    ]


def describe(runs: Sequence[PlannedRun], seeds: int, rate: float, share: float) -> list[str]:
    """A line a run, and the sum.

    Args:
      runs: Of one seed.
      seeds: How often each is trained.
      rate: Operations per second that the devices reach in a large product.
      share: Of that rate, what training reaches, in (0, 1].

    Raises:
      InputError: If a number makes no sense.
    """
    if seeds < 1:
        raise InputError(f"--seeds must be at least 1, got {seeds}.")
    if not rate > 0:
        raise InputError(f"--tflops must be above 0, got {rate / 1e12:g}.")
    if not 0 < share <= 1:
        raise InputError(f"--share must be above 0 and at most 1, got {share:g}.")
    lines = [
        f"R = {run.num_registers}: {run.num_steps:,} steps, {run.num_images:,} images of "
        f"{run.flops_per_image / 1e9:.2f} GFLOP, {run.hours(rate * share):.2f} hours"
        for run in runs
    ]
    hours = seeds * sum(run.hours(rate * share) for run in runs)
    count = seeds * len(runs)
    return [
        *lines,
        f"{count} run{'s' if count > 1 else ''}: {hours:.2f} device hours at {100 * share:.0f} % "
        f"of {rate / 1e12:.2f} TFLOP/s, without evaluation.",
    ]


def _count_images(data: str) -> int:
    try:
        return len(open_source(data, "train"))
    except InputError:
        if data in KNOWN_SIZES:
            return KNOWN_SIZES[data]
        raise
