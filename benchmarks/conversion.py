"""Converting a file of DeiT-III Small: this project against torch.load, NumPy and Orbax.

`python -m benchmarks.conversion [--rounds N]`: the whole command, from the start of Python to a
checkpoint directory on disk; 88 MB of random weights with 4 registers, as the study saved them.
"""

import argparse
import functools
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.race import Step, race, table, write

OURS = "regvit-convert"
WITH_TORCH = "torch.load + Orbax"


def write_study_file(path: Path) -> None:
    """A file as the study's training wrote it, without the optimiser."""
    import torch

    from benchmarks.inference import timm_model

    _, model = timm_model(compiled=False)
    names = {"ls1.gamma": "gamma_1", "ls2.gamma": "gamma_2", "reg_token": "reg_tokens"}
    state = {}
    for name, tensor in model.state_dict().items():
        for theirs, studys in names.items():
            name = name.replace(theirs, studys)
        state[name] = tensor
    torch.save({"model": state, "epoch": 799}, path)


def convert_with_torch(source: Path, target: Path) -> None:
    """The usual script: load, rename, transpose, save."""
    import numpy as np
    import orbax.checkpoint as ocp
    import torch

    state = torch.load(source, map_location="cpu", weights_only=True)["model"]
    tree: dict = {}
    for name, tensor in state.items():
        array = tensor.numpy()
        if array.ndim == 4:
            array = np.ascontiguousarray(array.transpose(2, 3, 1, 0))
        elif array.ndim == 2:
            array = np.ascontiguousarray(array.T)
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = array
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(target, tree)


def start(command: list[str], target: Path) -> Step:
    """A process that converts, from its start to its end."""

    def step() -> None:
        shutil.rmtree(target, ignore_errors=True)
        subprocess.run(command, check=True, capture_output=True)

    return step


def main() -> None:
    """Measures, prints a table and keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--with-torch", nargs=2, type=Path, metavar=("SRC", "DST"))
    options = parser.parse_args()
    if options.with_torch:
        convert_with_torch(*options.with_torch)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, ours, theirs = folder / "study.pth", folder / "ours", folder / "theirs"
        write_study_file(source)
        program = str(Path(sys.executable).parent / "regvit-convert")
        python = [sys.executable, "-m", "benchmarks.conversion", "--with-torch"]
        rivals = {
            OURS: functools.partial(start, [program, "import", str(source), str(ours)], ours),
            WITH_TORCH: functools.partial(start, [*python, str(source), str(theirs)], theirs),
        }
        timings = race(rivals, options.rounds)
        results = [table("conversion of 88 MB", 1, timings, OURS)]
    packages = ("jax", "orbax-checkpoint", "torch", "numpy")
    write("conversion", results, {name: importlib.metadata.version(name) for name in packages})


if __name__ == "__main__":
    main()
