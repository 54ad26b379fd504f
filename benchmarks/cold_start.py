"""From the start of Python to the first logits of one image: this project against timm.

`python -m benchmarks.cold_start [--rounds N]`: DeiT-III Small with 4 registers, 224 px, weights
from a checkpoint directory against weights from a .pth file; ours with the compiled program on
disk, as a second start finds it, and without.
"""

import argparse
import functools
import importlib.metadata
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.race import Step, race, table, write

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
    from benchmarks.inference import timm_model

    torch, model = timm_model(compiled=False)
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.inference_mode():
        model(torch.zeros(1, 3, 224, 224))


def write_weights(folder: Path) -> tuple[Path, Path]:
    """The same random weights, as ours and as timm's."""
    import torch

    from benchmarks.inference import timm_model
    from convert.importing import import_checkpoint

    _, model = timm_model(compiled=False)
    theirs, ours = folder / "timm.pth", folder / "ours"
    torch.save(model.state_dict(), theirs)
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


def main() -> None:
    """Measures, prints a table and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--ours", type=Path)
    parser.add_argument("--timm", type=Path)
    options = parser.parse_args()
    if options.ours:
        first_logits(options.ours)
        return
    if options.timm:
        first_logits_of_timm(options.timm)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours, theirs = write_weights(folder)
        mine = ["--ours", str(ours)]
        rivals = {
            OURS: functools.partial(start, mine, folder / "cache"),
            "ours, first start": functools.partial(start, mine),
            "timm eager": functools.partial(start, ["--timm", str(theirs)]),
        }
        results = [table("Cold start", 1, race(rivals, options.rounds), OURS)]
    packages = ("jax", "torch", "timm", "numpy")
    write("cold_start", results, {name: importlib.metadata.version(name) for name in packages})


if __name__ == "__main__":
    main()
