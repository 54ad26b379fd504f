"""Measures this project against PyTorch: `python -m benchmarks [JOB ...]`, as `make bench` does.

Prints a table for every job, keeps the figures in `benchmarks/results/`, one file for each day and
kind of machine, and sets the README's tables anew. Where there is a GPU, it follows the CPU.
"""

import argparse
import importlib.util
from pathlib import Path
from typing import Any

from benchmarks import (
    cold_start,
    conversion,
    inference,
    input,
    lost,
    machine,
    measurements,
    scaling,
    summary,
    training,
)
from benchmarks.machine import Device
from benchmarks.photographs import files_below, photographs

OF_FILES = {"inference": inference.measure, "input": input.measure, "lost": lost.measure}
OTHERS = {
    "training": training.measure,
    "conversion": conversion.measure,
    "cold_start": cold_start.measure,
    "scaling": scaling.measure,
}
JOBS = (*OF_FILES, *OTHERS)
CPU_ONLY = ("input", "conversion")
"""Jobs whose work is the CPU's on any machine."""
ROUNDS = dict.fromkeys(OF_FILES, 9) | dict.fromkeys(OTHERS, 7)


def main() -> None:
    """Runs the chosen jobs on the chosen devices."""
    options = _parser().parse_args()
    _check(options)
    for device in options.device or _devices():
        machine.choose_device(device)
        for job in options.jobs or JOBS:
            if device == "cpu" or job not in CPU_ONLY:
                _measure(job, options)
    summary.main()


def _measure(job: str, options: argparse.Namespace) -> None:
    rounds = options.rounds or ROUNDS[job]
    configuration: dict[str, Any] = {"rounds": rounds, "device": machine.device()}
    if job in OF_FILES:
        configuration["photographs"] = str(options.photographs or "scikit-image's, cut into pieces")
        with photographs(options.photographs) as files:
            results = OF_FILES[job](rounds, files)
    else:
        results = OTHERS[job](rounds)
    measurements.keep(job, results, configuration)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="all, if none is named")
    parser.add_argument("--rounds", type=int, help="timings of each rival; 7, or 9 of short jobs")
    parser.add_argument("--device", nargs="+", choices=("cpu", "gpu"), help="those that are there")
    parser.add_argument("--photographs", type=Path, help="a folder of JPEG files; or made ones")
    return parser


def _check(options: argparse.Namespace) -> None:
    error = _parser().error
    if unknown := sorted(set(options.jobs) - set(JOBS)):
        error(f"no job {', '.join(unknown)}; there are {', '.join(JOBS)}")
    if options.rounds is not None and options.rounds < 1:
        error(f"--rounds is {options.rounds}; a median needs 1 or more, its interval 6")
    if options.photographs and not files_below(options.photographs):
        error(
            f"no photographs (*.jpg, *.jpeg) in {options.photographs}; name a folder that has "
            "some, or leave --photographs out"
        )
    missing = [name for name in ("torch", "torchvision", "timm") if not _is_installed(name)]
    if missing and options.jobs != ["scaling"]:
        error(
            f"{', '.join(missing)} not installed, which we are measured against; "
            "run `pip install -c constraints.txt -e '.[torch,fast]'`, or only the job `scaling`"
        )
    if "gpu" in (options.device or ()) and (problem := machine.gpu_problem()):
        error(f"--device gpu: {problem}; --device cpu needs none")


def _devices() -> list[Device]:
    problem = machine.gpu_problem()
    print("On the CPU alone: " + problem if problem else "On the CPU, then on the GPU.")
    return ["cpu"] if problem else ["cpu", "gpu"]


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


if __name__ == "__main__":
    main()
