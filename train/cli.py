"""The commands of `regvit-train`."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from regvit_jax import console
from regvit_jax.errors import InputError
from train.presets import PRESETS
from train.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class Run:
    """Train a vision transformer with registers; the same command again continues the run."""

    out: Path
    """Directory of the run."""
    recipe: Recipe
    preset: str = "demo"
    """Recipe that the other options override: demo or photographs. The defaults below are its."""


@dataclasses.dataclass(frozen=True)
class Eval:
    """Measure a checkpoint's top-1 and top-5 accuracy."""

    checkpoint: Path
    """What `regvit-train run` or `regvit-convert import` wrote."""
    data: str = "digits"
    """"digits", or a folder with one folder a class (or with a folder val of such)."""
    split: str = "val"
    """"train" or "val"."""
    out: Path | None = None
    """File for the result, as JSON."""


def main() -> None:
    """Runs `regvit-train`."""
    console.run(_main)


def _main() -> None:
    default = Run(out=tyro.MISSING, recipe=_preset(sys.argv[1:]))
    command: Any = (
        Annotated[Run, tyro.conf.subcommand("run", default=default, prefix_name=False)]
        | Annotated[Eval, tyro.conf.subcommand("eval", prefix_name=False)]
    )
    options = tyro.cli(
        command,
        prog="regvit-train",
        description="Train and evaluate vision transformers with registers.\n\n"
        "Example: regvit-train run --num-registers 4 --data digits --out runs/reg4",
        config=(tyro.conf.OmitArgPrefixes,),
    )
    _run(options) if isinstance(options, Run) else _eval(options)


def _run(options: Run) -> None:
    from train.loop import train

    outcome = train(options.recipe, options.out)
    if outcome.signal is not None:
        sys.stderr.write(
            f"\nStopped after step {outcome.step} of {outcome.total_steps}; the same command "
            "continues there.\n"
        )
        raise SystemExit(128 + outcome.signal)
    if outcome.was_finished:
        sys.stdout.write(f"{options.out} is finished already; nothing to do.\n")
    sys.stdout.write(f"{_sentence(outcome.result)}\n")


def _eval(options: Eval) -> None:
    from train.evaluate import evaluate_checkpoint

    result = evaluate_checkpoint(options.checkpoint, options.data, options.split)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    sys.stdout.write(f"{_sentence(result)}\n")


def _preset(arguments: Sequence[str]) -> Recipe:
    """The recipe that `--preset` names; its values are the other options' defaults."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=Run.preset)
    name = parser.parse_known_args(arguments)[0].preset
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}. Choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]


def _sentence(result: Any) -> str:
    top1 = result["top1"]
    percent = {name: 100 * top1[name] for name in ("share", "low", "high")}
    return (
        "Top-1 {share:.2f} % (95 % interval {low:.2f} to {high:.2f}), ".format(**percent)
        + f"{top1['n']} images of {result['data']}."
    )
