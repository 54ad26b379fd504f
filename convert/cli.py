"""The commands of `regvit-convert`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro

from convert.dialects import Family
from regvit_jax import console


@dataclasses.dataclass(frozen=True)
class Import:
    """Write a checkpoint directory with the weights of a PyTorch file.

    The family, the variant and the number of registers are read from the file. Nothing in the
    file is run, and PyTorch is not needed.
    """

    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """File of weights: the study's or DeiT-III's .pth."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """Directory to write; must not exist."""
    family: Family | None = None
    """What the file must be; recognised by default."""
    model_ema: bool = False
    """Take the moving average of the weights, where training saved one."""
    num_heads: int | None = None
    """Attention heads, for widths that no published model has."""

    def __call__(self) -> None:
        from convert.importing import import_checkpoint
        from convert.inspection import describe_model

        done = import_checkpoint(self.src, self.dst, self.family, self.model_ema, self.num_heads)
        sys.stdout.write(
            f"Wrote {self.dst}: {describe_model(done.match.config)}; from "
            f"{done.match.dialect.title}.\n"
        )


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Print what a checkpoint is: a directory of ours, a training run's, or a PyTorch file."""

    path: Annotated[Path, tyro.conf.Positional]
    """Of the checkpoint."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        from convert.inspection import inspect, to_json, to_table

        report = inspect(self.path)
        sys.stdout.write(to_json(report) if self.json else to_table(report))


def main() -> None:
    """Runs `regvit-convert`."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"import": Import, "inspect": Inspect},
        prog="regvit-convert",
        description="Convert checkpoints between PyTorch and regvit_jax.",
    )
    console.run(command)
