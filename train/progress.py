"""How does a person see that a run is alive? One line: step, loss, speed, time left."""

import sys
import time

QUIET_SECONDS = 10.0


class ProgressLine:
    """Rewrites one line on a terminal; elsewhere writes one every ten seconds. All on stderr.

    Args:
      first_step: Steps taken before.
      total_steps: Steps of the whole run.
      batch_size: Images in a step.
    """

    def __init__(self, first_step: int, total_steps: int, batch_size: int) -> None:
        self.first_step, self.total_steps, self.batch_size = first_step, total_steps, batch_size
        self.started: float | None = None
        self.shown = 0.0
        self.speed = 0.0
        """Images per second since the first step, whose compilation does not count."""

    def update(self, step: int, loss: float) -> None:
        """Takes note of a finished step."""
        now = time.monotonic()
        if self.started is None:
            self.started, self.first_step, self.shown = now, step, now
            self._write(f"step {step} of {self.total_steps}  loss {loss:.4f}", step)
            return
        seconds = now - self.started
        self.speed = (step - self.first_step) * self.batch_size / max(seconds, 1e-9)
        quiet = 0.2 if sys.stderr.isatty() else QUIET_SECONDS
        if now - self.shown < quiet and step != self.total_steps:
            return
        self.shown = now
        left = (self.total_steps - step) * self.batch_size / self.speed
        self._write(
            f"step {step} of {self.total_steps}  loss {loss:.4f}  {self.speed:.0f} images/s  "
            f"{int(left) // 3600}:{int(left) // 60 % 60:02}:{int(left) % 60:02} left",
            step,
        )

    def _write(self, text: str, step: int) -> None:
        on_terminal = sys.stderr.isatty()
        sys.stderr.write(f"\r{text:<79}" if on_terminal else text + "\n")
        if on_terminal and step == self.total_steps:
            sys.stderr.write("\n")
        sys.stderr.flush()
