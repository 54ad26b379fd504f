"""The commands of `regvit-train`."""

import argparse
import dataclasses
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from regvit_jax import console
from regvit_jax.command_line import check_arguments, in_our_words
from regvit_jax.repeated import gathered
from regvit_jax.train.cores import claim_cores
from regvit_jax.train.hosts_config import HostsConfig
from regvit_jax.train.presets import preset as preset_named
from regvit_jax.train.recipe import Recipe

if TYPE_CHECKING:
    from regvit_jax.train.loop import Outcome

COMMANDS = ("run", "eval", "pack", "sheet", "plan")
DEFAULT_PRESET = "demo"
SEVERAL = frozenset({"--registers"})
"""Options of several values; given again, they add to what was given."""


def main() -> None:
    """Runs `regvit-train`."""
    console.run(_main)


def _main() -> None:
    check_arguments(sys.argv[1:], COMMANDS, "regvit-train")
    arguments = gathered(sys.argv[1:], SEVERAL)
    default = _default_recipe(arguments)
    makers = (_run_command(default), _eval, _pack, _sheet_command(default), _plan_command(default))
    with in_our_words("regvit-train", *sys.argv[1:2]):
        tyro.extras.subcommand_cli_from_dict(
            dict(zip(COMMANDS, makers, strict=True)),
            args=arguments,
            prog="regvit-train",
            description="Train and evaluate vision transformers with registers. "
            f"{console.VERSION_HINT}\n\n"
            "Example: regvit-train run --num-registers 4 --data digits --out runs/reg4",
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.AvoidSubcommands),
        )


def _run_command(default: Recipe) -> Callable[..., None]:
    """The command `run`, whose options have a recipe's values as defaults."""

    def run(
        out: Path,
        recipe: Recipe = default,
        hosts: HostsConfig = HostsConfig(),  # noqa: B008
        preset: str = DEFAULT_PRESET,
        variant: str | None = None,
        allow_changes: bool = False,
    ) -> None:
        """Train a vision transformer with registers; the same command again continues the run.

        Args:
          out: Directory of the run.
          recipe: What to train, on what, and how.
          hosts: Which processes take part.
          preset: Recipe that the other options override: demo, imagenette, organism, official-800,
            official-400, study or finetune. The defaults below are its values.
          variant: Size of the preset's model: tiny, small, medium, base, large or huge.
          allow_changes: Continue a run with another configuration than it was started with.
        """
        _say_preset(sys.argv[1:], recipe)
        claim_cores(recipe.data.batch_size, recipe.model, unit=2 if recipe.data.is_mixed else 1)
        from regvit_jax.compilation import cache_compilations
        from regvit_jax.train.hosts import is_first, join
        from regvit_jax.train.loop import train

        join(hosts)
        cache_compilations()
        outcome = train(recipe, out, allow_changes)
        if is_first():
            _report(outcome, out)
        if outcome.signal is not None:
            raise SystemExit(128 + outcome.signal)

    return run


def _say_preset(arguments: Sequence[str], recipe: Recipe) -> None:
    """Says which recipe is used where none was chosen for images that it was not made for."""
    chosen = any(argument.startswith(("--preset", "--init")) for argument in arguments)
    if not chosen and recipe.data.data not in ("digits", "cues"):
        sys.stderr.write(
            f"No --preset was given: {DEFAULT_PRESET} is used, made for embedded digits "
            f"({recipe.model.image_size} px, {recipe.epochs:g} epochs). For photographs: "
            "--preset imagenette.\n"
        )


def _report(outcome: "Outcome", out: Path) -> None:
    """Says how a run ended."""
    if outcome.unreadable:
        sys.stderr.write(f"{outcome.unreadable} unreadable images were replaced by others.\n")
    if outcome.signal is not None:
        saved = "; its state is saved" if outcome.step else ""
        sys.stderr.write(
            f"\nStopped after step {outcome.step} of {outcome.total_steps}{saved}. "
            f"The same command continues there:\n  {_command()}\n"
        )
        return
    if outcome.was_finished:
        sys.stdout.write(f"{out} is finished already; nothing to do.\n")
    sys.stdout.write(f"{_sentence(outcome.result)}\n")


def _command() -> str:
    """The command of this process, as a shell takes it."""
    program = Path(sys.argv[0])
    name = "python -m regvit_jax.train" if program.name == "__main__.py" else program.name
    return shlex.join([*name.split(), *sys.argv[1:]])


def _sheet_command(default: Recipe) -> Callable[..., None]:
    """The command `sheet`, whose options have a recipe's values as defaults."""

    def sheet(
        out: Path,
        recipe: Recipe = default,
        preset: str = DEFAULT_PRESET,
        variant: str | None = None,
        num_images: int = 6,
        num_samples: int = 6,
    ) -> None:
        """Draw a contact sheet: images as training sees them, and what was done to them.

        Args:
          out: Picture to write, such as sheet.png.
          recipe: What happens to the images; other parts do not matter.
          preset: As for `run`.
          variant: As for `run`.
          num_images: Rows.
          num_samples: Columns beside the first, which shows what evaluation sees.
        """
        from regvit_jax.compilation import cache_compilations
        from regvit_jax.train.sheet import write_sheet

        cache_compilations()
        write_sheet(recipe, out, num_images, num_samples)
        sys.stdout.write(f"{out} shows images of {recipe.data.data}.\n")

    return sheet


def _plan_command(default: Recipe) -> Callable[..., None]:
    """The command `plan`, whose options have a recipe's values as defaults."""

    def plan(
        recipe: Recipe = default,
        preset: str = DEFAULT_PRESET,
        variant: str | None = None,
        registers: tuple[int, ...] = (0, 1, 2, 4, 8, 16),
        seeds: int = 1,
        tflops: float | None = None,
        share: float = 0.3,
    ) -> None:
        """Say how long a study would train: nothing is trained.

        Args:
          recipe: What to train, on what, and how.
          preset: As for `run`.
          variant: As for `run`.
          registers: Numbers of registers, one run each.
          seeds: How often each is trained.
          tflops: What the devices reach together in a large matrix product, in TFLOP/s; measured
            here unless given.
          share: Of that, what training reaches; model_flops_utilisation in a run's metrics.jsonl.
        """
        from regvit_jax.train.flops import matrix_rate
        from regvit_jax.train.plan import describe, plan_runs

        runs = plan_runs(recipe, registers)
        rate = matrix_rate(recipe.dtype) if tflops is None else tflops * 1e12
        sys.stdout.write("\n".join(describe(runs, seeds, rate, share)) + "\n")

    return plan


def _eval(
    checkpoint: Path,
    data: str = "digits",
    split: str = "val",
    out: Path | None = None,
    skip_unreadable: bool = False,
) -> None:
    """Measure a checkpoint's top-1 and top-5 accuracy.

    Args:
      checkpoint: What `regvit-train run` or `regvit-convert import` wrote.
      data: "digits", a folder with one folder a class (or with a folder val of such), or a
        prepared data set of TensorFlow Datasets, by name or folder.
      split: "train" or "val".
      out: File for the result, as JSON.
      skip_unreadable: Leave out images that cannot be read, instead of stopping.
    """
    from regvit_jax.compilation import cache_compilations
    from regvit_jax.train.evaluate import BY_NAME, evaluate_checkpoint
    from regvit_jax.whole import write_whole

    cache_compilations()
    result = evaluate_checkpoint(checkpoint, data, split, skip_unreadable)
    if out is not None:
        write_whole(out, json.dumps(result, indent=2) + "\n")
    if (classes := result["classes"]) != BY_NAME:
        sys.stderr.write(f"Classes are {classes}.\n")
    sys.stdout.write(f"{_sentence(result)}\n")


def _pack(
    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    name: str | None = None,
    shards: int | None = None,
    skip_unreadable: bool = False,
    seed: int = 0,
) -> None:
    """Pack a folder of images into a data set of TensorFlow Datasets (ArrayRecord files).

    Example: regvit-train pack photographs ~/tensorflow_datasets/photographs/1.0.0, then --data
    photographs. No TensorFlow is needed; JPEG and PNG files are stored as they are.

    Args:
      folder: Folders train and val with one folder a class in each, one folder of class folders or
        of images, or a Pascal VOC root.
      out: Folder of the data set. What lies in DATA_DIR/NAME/1.0.0 is found by its name, where
        DATA_DIR is TFDS_DATA_DIR or ~/tensorflow_datasets; all else by its path.
      name: What the data set is called; after the folder unless given.
      shards: Files of each split; one for 4,096 images unless given.
      skip_unreadable: Leave out images that cannot be read, instead of stopping.
      seed: Of the order of the images, so that every part of a split is a fair sample.
    """
    from regvit_jax.train.pack import PackOptions, pack

    options = PackOptions(folder, out, name, shards, skip_unreadable, seed)
    packed = pack(options)
    for message in packed.skipped:
        sys.stderr.write(f"Left out: {message}\n")
    counts = ", ".join(f"{n} images in {split}" for split, n in packed.num_images.items())
    left_out = f", {len(packed.skipped)} left out" if packed.skipped else ""
    sys.stdout.write(f"{out} holds {packed.name}: {counts}{left_out}.\n")


def _default_recipe(arguments: Sequence[str]) -> Recipe:
    """The recipe whose values are the other options' defaults.

    It is the one that `--preset` and `--variant` name; with `--init`, its model is the
    checkpoint's, drop-path aside.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", default=DEFAULT_PRESET)
    parser.add_argument("--variant")
    parser.add_argument("--init", default="")
    given = parser.parse_known_args(arguments)[0]
    recipe = preset_named(given.preset, given.variant)
    if not given.init:
        return recipe
    from regvit_jax.checkpoint import read_info

    model = dataclasses.replace(
        read_info(given.init).model, drop_path_rate=recipe.model.drop_path_rate
    )
    return dataclasses.replace(recipe, model=model, init=given.init)


def _sentence(result: Any) -> str:
    top1 = result["top1"]
    percent = {name: 100 * top1[name] for name in ("share", "low", "high")}
    unreadable = result.get("unreadable_images", 0)
    return (
        "Top-1 {share:.2f} % (95 % interval {low:.2f} to {high:.2f}), ".format(**percent)
        + f"{top1['n']} images of {result['data']}."
        + (f" {unreadable} more could not be read and do not count." if unreadable else "")
    )
