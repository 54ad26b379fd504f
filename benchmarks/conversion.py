"""Converting a file of DeiT-III Small: this project against torch.load, NumPy and Orbax.

The whole command, from the start of Python to a checkpoint directory on disk; 88 MB of random
weights with 4 registers, as the study saved them.
"""

import argparse
import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.inference import REGISTERS
from benchmarks.pytorch import timm_model
from benchmarks.race import OURS, Step, race, table

WITH_TORCH = "torch.load + Orbax"


def write_study_file(path: Path) -> None:
    """A file as the study's training wrote it, without the optimiser."""
    torch, model = timm_model(REGISTERS)
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


def measure(rounds: int) -> list[dict[str, Any]]:
    """Runs the race, prints its table and returns its figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, ours, theirs = folder / "study.pth", folder / "ours", folder / "theirs"
        write_study_file(source)
        program = str(Path(sys.executable).parent / "regvit-convert")
        python = [sys.executable, "-m", "benchmarks.conversion"]
        rivals = {
            OURS: functools.partial(start, [program, "import", str(source), str(ours)], ours),
            WITH_TORCH: functools.partial(start, [*python, str(source), str(theirs)], theirs),
        }
        return [table("Conversion of 88 MB", 1, race(rivals, rounds), OURS)]


def main() -> None:
    """The rival's process."""
    parser = argparse.ArgumentParser(description="Converts with torch.load and Orbax.")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    convert_with_torch(options.source, options.target)


if __name__ == "__main__":
    main()
