"""How fast are rivals at the same job, when they compute strictly in turn on one machine?"""

import dataclasses
import math
import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.machine import peak_mb

OURS = "ours"
"""The rival that is this project; several of it are called "ours, ..."."""
Step = Callable[[], object]
SetUp = Callable[[], Step]
"""Prepares a rival in a process of its own and returns what is to be timed."""


@dataclasses.dataclass
class Timing:
    """What one rival needed."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    """One per round, in order."""
    set_up_seconds: float = 0.0
    """Until the first result: imports, weights, compilation."""
    peak_mb: float = 0.0
    """Largest memory, in MiB, as `machine.peak_mb` counts it."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def race(rivals: Mapping[str, SetUp], rounds: int) -> dict[str, Timing]:
    """Times every rival `rounds` times, in alternating order, each in a process of its own.

    Args:
      rivals: Top-level functions by the name of the rival.
      rounds: Timings of each; a first, untimed step warms up.
    """
    context = multiprocessing.get_context("spawn")
    timings = {name: Timing() for name in rivals}
    pipes: dict[str, Connection] = {}
    processes = []
    try:
        for name, set_up in rivals.items():
            pipes[name], child = context.Pipe()
            processes.append(context.Process(target=_compete, args=(set_up, child)))
            processes[-1].start()
            child.close()  # so that a rival that dies is noticed, and not waited for
            timings[name].set_up_seconds = pipes[name].recv()
        _run(pipes, timings, rounds)
    finally:
        for process in processes:  # after the end they are gone; after an error they wait for us
            process.kill()
    return timings


def _run(pipes: Mapping[str, Connection], timings: Mapping[str, Timing], rounds: int) -> None:
    order = list(pipes)
    for _ in range(rounds):
        for name in order:
            pipes[name].send("go")
            timings[name].seconds.append(pipes[name].recv())
        order = order[1:] + order[:1]
    for name, pipe in pipes.items():
        pipe.send("stop")
        timings[name].peak_mb = pipe.recv()


def _compete(set_up: SetUp, pipe: Connection) -> None:
    start = time.perf_counter()
    step = set_up()
    step()
    pipe.send(time.perf_counter() - start)
    while pipe.recv() == "go":
        start = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - start)
    pipe.send(peak_mb())


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """An interval of at least 95 % for a median, from the values in order; all of them if under 6.

    Reference: the sign test; the number of values below the median is binomial with 1/2.
    """
    ordered, n = sorted(values), len(values)
    left_out, tail = 0, 0.0
    while (tail := tail + math.comb(n, left_out) / 2**n) <= 0.025:
        left_out += 1
    first = max(left_out - 1, 0)
    return ordered[first], ordered[n - 1 - first]


def table(job: str, images: int, timings: Mapping[str, Timing], ours: str) -> dict[str, Any]:
    """Prints the rivals of one job, and returns its figures for the results file.

    Args:
      job: What was computed.
      images: In one step.
      timings: Of every rival.
      ours: Whose speed the ratios are of; above 1, it is the fastest.
    """
    rows = {}
    rounds = len(timings[ours].seconds)
    print(f"\n{job} ({images} images a step, {rounds} rounds)")
    print(f"{'':24}{'median s':>10}{'images/s':>10}{'ours x':>8}{'set-up s':>10}{'peak MiB':>10}")
    for name, timing in timings.items():
        paired = [
            theirs / mine
            for theirs, mine in zip(timing.seconds, timings[ours].seconds, strict=True)
        ]
        rows[name] = {
            "seconds": [round(value, 4) for value in timing.seconds],
            "median_seconds": timing.median,
            "images_per_second": images / timing.median,
            "ours_is_x_times_as_fast": statistics.median(paired),
            "interval": median_interval(paired),
            "set_up_seconds": timing.set_up_seconds,
            "peak_mb": timing.peak_mb,
        }
        print(
            f"{name:24}{timing.median:10.3f}{images / timing.median:10.2f}"
            f"{statistics.median(paired):8.2f}{timing.set_up_seconds:10.1f}{timing.peak_mb:10.0f}",
            flush=True,
        )
    return {"job": job, "images": images, "rounds": rounds, "ours": ours, "rivals": rows}
