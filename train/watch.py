"""What do the steps report, and is the loss still a number?"""

import collections
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import optax

from regvit_jax.errors import InputError
from regvit_jax.train.progress import ProgressLine
from regvit_jax.train.rundir import RunDirectory
from regvit_jax.train.step import StepMetrics

STEPS_IN_FLIGHT = 2
"""Without a bound, virtual CPU devices starve one another and XLA ends the process."""


class StepCost(NamedTuple):
    """What a step takes, for the metrics."""

    flops_per_image: float
    peak: float
    """Operations per second that all devices reach together in a large product."""
    waited: Callable[[], float]
    """Seconds that the loop has waited for images so far."""


class StepWatch:
    """Reads the metrics of each step, two steps late, so that the devices never wait for it.

    Args:
      run: Where the metrics are kept.
      log_steps: Steps between lines.
      schedule: The learning rate, which the lines mention.
      line: What a person sees.
      cost: What a step takes.
      losses: Of the newest steps before, which no line tells yet.
    """

    def __init__(
        self,
        run: RunDirectory,
        log_steps: int,
        schedule: optax.Schedule,
        line: ProgressLine,
        cost: StepCost,
        losses: Sequence[float] = (),
    ) -> None:
        self.run, self.log_steps, self.schedule, self.line = run, log_steps, schedule, line
        self.cost, self.logged_at, self.waited = cost, time.monotonic(), 0.0
        self.in_flight: collections.deque[tuple[int, StepMetrics]] = collections.deque()
        self.losses = list(losses)
        """Losses of the newest steps, which no line of the metrics holds yet."""

    def add(self, step: int, metrics: StepMetrics) -> None:
        """Takes a step that has just been started; waits for the one before the last.

        Raises:
          InputError: If a loss is not a number.
        """
        self.in_flight.append((step, metrics))
        if len(self.in_flight) > STEPS_IN_FLIGHT:
            self._read()

    def wait_for_all(self) -> None:
        """Reads what is still in flight.

        Raises:
          InputError: If a loss is not a number.
        """
        while self.in_flight:
            self._read()

    def _read(self) -> None:
        step, metrics = self.in_flight.popleft()
        loss, grad_norm = float(metrics.loss), float(metrics.grad_norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise InputError(
                f"In step {step} the loss was {loss} and the gradient's norm {grad_norm}. The "
                f"newest saved state, in {self.run.path}, is from before. Try a lower "
                "--learning-rate or a longer --warmup-epochs, in another --out."
            )
        self.losses.append(loss)
        self.line.update(step, loss)
        if step % self.log_steps == 0:
            self._log(step, grad_norm)

    def _log(self, step: int, grad_norm: float) -> None:
        now, waited = time.monotonic(), self.cost.waited()
        elapsed = max(now - self.logged_at, 1e-9)
        speed = self.line.speed
        self.run.log(
            {
                "step": step,
                "loss": sum(self.losses) / len(self.losses),
                "grad_norm": grad_norm,
                "learning_rate": float(self.schedule(step - 1)),
                "images_per_second": round(speed, 1),
                "model_flops_per_second": speed * self.cost.flops_per_image,
                "model_flops_utilisation": speed * self.cost.flops_per_image / self.cost.peak,
                "input_wait_fraction": min(1.0, (waited - self.waited) / elapsed),
            }
        )
        self.logged_at, self.waited = now, waited
        self.losses.clear()
