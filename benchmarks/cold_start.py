"""From the start of Python to the first logits of one image: this project against timm.

DeiT-III Small with 4 registers, 224 px, weights from a checkpoint directory against weights from a
.pth file; ours with the compiled program on disk, as a second start finds it, and without.
"""

import argparse
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.inference import REGISTERS
from benchmarks.pytorch import finish, timm_model, torch_device
from benchmarks.race import Step, race, table

OURS = "ours, second start"


def first_logits(checkpoint: Path) -> None:
    """What a user's script does."""
    import jax
    import jax.numpy as jnp

    from regvit_jax import load

    model, params = load(checkpoint)
    forward = jax.jit(lambda params, images: model.apply({"params": params}, images))
    forward(params, jnp.zeros((1, 224, 224, 3))).block_until_ready()


def first_logits_of_timm(weights: Path) -> None:
    """The same with PyTorch, eager, which starts fastest."""
    torch, model = timm_model(REGISTERS)
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 224, 224, device=torch_device()))
    finish(torch)


def write_weights(folder: Path) -> tuple[Path, Path]:
    """The same random weights, as ours and as timm's."""
    from regvit_jax.convert.importing import import_checkpoint

    torch, model = timm_model(REGISTERS)
    theirs, ours = folder / "timm.pth", folder / "ours"
    torch.save(model.cpu().state_dict(), theirs)
    import_checkpoint(theirs, ours)
    return ours, theirs


def start(arguments: list[str], cache: Path | None = None) -> Step:
    """A process, from its start to its end."""
    environment = dict(os.environ)
    if cache is not None:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(cache)
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    command = [sys.executable, "-m", "benchmarks.cold_start", *arguments]
    return lambda: subprocess.run(command, check=True, capture_output=True, env=environment)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Runs the race, prints its table and returns its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = write_weights(folder)
        mine = ["ours", str(ours)]
        rivals = {
            OURS: functools.partial(start, mine, folder / "cache"),
            "ours, first start": functools.partial(start, mine),
            "timm eager": functools.partial(start, ["timm", str(theirs)]),
        }
        return [table("Cold start", 1, race(rivals, rounds), OURS)]


def main() -> None:
    """A rival's process."""
    parser = argparse.ArgumentParser(description="Computes the logits of one image.")
    parser.add_argument("rival", choices=("ours", "timm"))
    parser.add_argument("weights", type=Path)
    options = parser.parse_args()
    {"ours": first_logits, "timm": first_logits_of_timm}[options.rival](options.weights)


if __name__ == "__main__":
    main()
