"""Does a run that is killed again and again end as one that never was? Real SIGKILLs.

`python -m benchmarks.kills --count 60` trains a tiny model with all that a run can be asked to
leave behind, kills it at random moments, starts it again, and compares every number and every
weight with those of an uninterrupted run, bit by bit. It prints what differs and keeps the figures.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# One core is one device, so that the figures are the same on all machines.
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from PIL import Image

from benchmarks import measurements
from regvit_jax import checkpoint
from regvit_jax.arrays import describe_arrays, flatten, read_arrays
from regvit_jax.config import ViTConfig
from regvit_jax.train.loop import train
from regvit_jax.train.recipe import DataConfig, OptimConfig, Recipe

MODEL = ViTConfig(
    embed_dim=16,
    depth=1,
    num_heads=2,
    patch_size=8,
    image_size=16,
    num_registers=2,
    layer_scale_init=0.3,
    drop_path_rate=0.2,
)
PROCESSES = multiprocessing.get_context("forkserver")
"""Each life starts from a process that has imported everything and computed nothing."""
CHECKPOINTS = ("model", "best", "ema", "epochs/*")
EXACT = ("loss", "grad_norm", "learning_rate")


def main() -> None:
    """Kills, compares, prints and keeps."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--count", type=int, default=60, help="kills")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--keep", action="store_true", help="add the figures to the results")
    options = parser.parse_args()
    PROCESSES.set_forkserver_preload(["regvit_jax.train.loop", "orbax.checkpoint", "tensorboardX"])
    with tempfile.TemporaryDirectory(prefix="kills") as folder:
        figures = measure(Path(folder), options.count, options.seed)
    print(json.dumps(figures, indent=1))
    if options.keep:
        measurements.keep("kills", [figures], {"count": options.count, "seed": options.seed})
    raise SystemExit(bool(figures["differences"] or figures["failures"]))


def measure(folder: Path, count: int, seed: int) -> dict[str, Any]:
    """Figures of runs that are killed so many times altogether.

    Args:
      folder: An empty one, for all that is written.
      count: Kills.
      seed: Of their moments.
    """
    recipe, generator = tiny_recipe(folder), random.Random(seed)
    reference = folder / "whole"
    _live(recipe, reference, folder, None)  # compiles
    shutil.rmtree(reference)
    started = time.monotonic()
    _live(recipe, reference, folder, None)
    seconds = time.monotonic() - started
    expected = contents(reference)
    found: dict[str, Any] = {"kills": 0, "runs": 0, "differences": [], "failures": []}
    moments: dict[str, int] = {}
    while found["kills"] < count:
        out, lives = folder / f"run{found['runs']}", 0
        while True:
            began = time.monotonic()
            delay = generator.uniform(0.1, 0.9) * seconds / (1 if lives % 4 else 3)
            status = _live(recipe, out, folder, delay if lives < 40 else None)
            if status != -signal.SIGKILL:
                break
            lives += 1
            moment = _moment(out)
            moments[moment] = moments.get(moment, 0) + 1
        if not lives:  # the machine has become faster: the moments are to lie within a run
            seconds = min(seconds, time.monotonic() - began)
        found["kills"] += lives
        found["runs"] += 1
        if status:
            found["failures"].append(f"{out.name} ended with status {status}")
        found["differences"] += differences(expected, contents(out), out.name)
        shutil.rmtree(out)
    steps = len([name for name in expected if name.startswith("step ")])
    return found | {
        "compared_a_run": len(expected),
        "loss_lines": steps,
        "seconds_a_run": round(seconds, 2),
        "moments": moments,
    }


def tiny_recipe(folder: Path) -> Recipe:
    """A run of seconds with evaluations, kept epochs and a moving average, on made-up photographs.

    Args:
      folder: Where the photographs are written.
    """
    generator = np.random.default_rng(0)
    for split, number in (("train", 9), ("val", 20)):
        for name in ("cat", "dog"):
            place = folder / "photographs" / split / name
            place.mkdir(parents=True)
            for i in range(number):
                pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return Recipe(
        model=MODEL,
        data=DataConfig(
            data=str(folder / "photographs"),
            batch_size=4,
            crop="random_resized",
            flip=True,
            mixup_alpha=0.8,
        ),
        optim=OptimConfig(
            optimizer="adamw", learning_rate=5e-3, rate_changes="step", ema_decay=0.9
        ),
        epochs=8.0,
        loss="cross_entropy",
        log_steps=3,
        save_steps=5,
        eval_steps=2,
        keep_every_epochs=2,
    )


def contents(out: Path) -> dict[str, Any]:
    """All that a finished run tells, by name; of weights, a hash of their bits."""
    found: dict[str, Any] = {}
    for line in map(json.loads, (out / "metrics.jsonl").read_text().splitlines()):
        name = f"evaluation {line['step']}" if "top1" in line else f"step {line['step']}"
        if name in found:
            found[f"{name} again"] = line
        found[name] = line if "top1" in line else [line[key] for key in EXACT]
    found["result"] = json.loads((out / "result.json").read_text())
    for pattern in CHECKPOINTS:
        for path in out.glob(pattern):
            info, (_, params) = checkpoint.read_info(path), checkpoint.load(path)
            found[str(path.relative_to(out))] = [dict(info.metrics), _hash(flatten(params))]
    for path in (out / "steps").iterdir():
        found[f"state {path.name}"] = _hash(read_arrays(path, describe_arrays(path)))
    hidden = [str(p.relative_to(out)) for p in out.rglob(".*") if p.name != ".lock"]
    found["left over"] = sorted(hidden + [str(p) for p in out.rglob("*partial*")])
    return found


def differences(expected: dict[str, Any], found: dict[str, Any], label: str) -> list[str]:
    """What differs, and what it is instead."""
    names = sorted(expected.keys() | found.keys())
    return [
        f"{label}: {name} is {str(found.get(name))[:200]}"
        for name in names
        if expected.get(name) != found.get(name)
    ]


def _live(recipe: Recipe, out: Path, folder: Path, delay: float | None) -> int:
    """Trains in a process of its own, which is killed after so many seconds; its exit status."""
    child = PROCESSES.Process(target=_train, args=(recipe, out, folder))
    child.start()
    child.join(delay)
    if child.exitcode is None:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    assert child.exitcode is not None
    return child.exitcode


def _train(recipe: Recipe, out: Path, folder: Path) -> None:
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    sys.stderr = (folder / "said.txt").open("a")
    train(recipe, out)


def _moment(out: Path) -> str:
    """What a killed run was writing, as far as what it left tells."""
    partial = next(
        (p for p in out.rglob(".*") if "partial" in p.name or "previous" in p.name), None
    )
    if partial is not None:
        place = partial.relative_to(out).parts[0] if partial.parent != out else partial.name
        return f"writing {place.strip('.').split('.')[0]}"
    if not (out / "metrics.jsonl").exists():
        return "before the first line"
    return "at rest, computing or reading"


def _hash(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode() + np.asarray(arrays[name]).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
