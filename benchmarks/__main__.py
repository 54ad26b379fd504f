"""Measures this project against PyTorch: `python -m benchmarks [JOB ...]`, as `make bench` does.

Prints a table for every job, keeps the figures in `benchmarks/results/`, one file for each day and
kind of machine, and sets the README's tables anew. Where there is a GPU, it follows the CPU.
"""

import argparse
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    cold_start,
    conversion,
    figures,
    inference,
    input,
    lost,
    machine,
    scaling,
    summary,
    training,
)

DATA = Path(__file__).parents[2] / "shared/data"
ROUNDS = {"input": 9, "lost": 9, "inference": 9}
CPU_ONLY = ("input", "conversion")
"""Jobs whose work is the CPU's on any machine."""


def main() -> None:
    """Runs the chosen jobs on the chosen devices."""
    options = _parser().parse_args()
    jobs: dict[str, Callable[[int], list[dict[str, Any]]]] = {
        "inference": functools.partial(inference.measure, folder=options.photographs),
        "training": training.measure,
        "input": functools.partial(input.measure, folder=options.voc),
        "lost": functools.partial(lost.measure, voc=options.voc),
        "conversion": conversion.measure,
        "cold_start": cold_start.measure,
        "scaling": scaling.measure,
    }
    chosen = options.jobs or list(jobs)
    _check(options, chosen, list(jobs))
    for device in options.device or (["cpu", "gpu"] if machine.has_gpu() else ["cpu"]):
        machine.choose_device(device)
        for job in chosen:
            if device == "gpu" and job in CPU_ONLY:
                continue
            rounds = options.rounds or ROUNDS.get(job, 7)
            if results := jobs[job](rounds):
                figures.keep(job, results, {"rounds": rounds, "device": device})
    summary.main()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="all, if none is named")
    parser.add_argument("--rounds", type=int, help="timings of each rival; 7, or 9 of short jobs")
    parser.add_argument("--device", nargs="+", choices=("cpu", "gpu"), help="those that are there")
    parser.add_argument("--photographs", type=Path, default=DATA / "imagenette2-224/val")
    parser.add_argument("--voc", type=Path, default=DATA / "voc-sample", help="a Pascal VOC root")
    return parser


def _check(options: argparse.Namespace, chosen: list[str], jobs: list[str]) -> None:
    error = _parser().error
    if unknown := sorted(set(chosen) - set(jobs)):
        error(f"no job {', '.join(unknown)}; there are {', '.join(jobs)}")
    if options.rounds is not None and options.rounds < 1:
        error(f"--rounds is {options.rounds}; a median needs 1 or more, its interval 6")
    if "gpu" in (options.device or ()) and not machine.has_gpu():
        error("--device gpu: nvidia-smi shows no GPU here; leave the option out")
    missing = [name for name in ("torch", "torchvision", "timm") if not _is_installed(name)]
    if missing and chosen != ["scaling"]:
        error(
            f"{', '.join(missing)} not installed, which we are measured against; "
            "run `pip install -c constraints.txt -e '.[torch,fast]'`, or only the job `scaling`"
        )


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    main()
