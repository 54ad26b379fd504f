"""Where do commands start? Ctrl-C ends them without a traceback while they still load."""

import importlib
import signal


def convert() -> None:
    """Runs `regvit-convert`."""
    _start("convert")


def train() -> None:
    """Runs `regvit-train`."""
    _start("train")


def analyze() -> None:
    """Runs `regvit-analyze`."""
    _start("analysis")


def _start(room: str) -> None:
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # not ignored, as it is behind `nohup ... &`
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    command = importlib.import_module(f"regvit_jax.{room}.cli")
    signal.signal(signal.SIGINT, before)
    command.main()
