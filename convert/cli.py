"""The commands of `regvit-convert`."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from regvit_jax import console
from regvit_jax.command_line import check_arguments, in_our_words
from regvit_jax.convert.choices import Choices
from regvit_jax.convert.dialects import DIALECTS, ExportFamily, Family, FileFormat
from regvit_jax.errors import InputError
from regvit_jax.repeated import gathered


@dataclasses.dataclass(frozen=True)
class Import:
    """Write a checkpoint directory with the weights of a file.

    The family, the variant and the number of registers are read from the file: DeiT-III, the
    study, DINOv2, DINOv3, timm, CLIP, transformers (the folder) and others. Nothing in the file is
    run, and PyTorch is not needed.
    """

    src: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SRC")]
    """File of weights (.pth, .safetensors, .msgpack, .npz), or a folder of transformers."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """Directory to write; must not exist. For the study's reconstruction probe, a file .npz."""
    choices: Annotated[Choices, tyro.conf.arg(name="")] = dataclasses.field(default_factory=Choices)
    family: Family | None = None
    """What the file must be; recognised by default."""
    model_ema: bool = False
    """Take the moving average of the weights, where training saved one; as --weights ema."""
    weights: Literal["teacher", "student", "ema"] | None = None
    """Which copy of the network, where the file holds several."""
    prefix: str | None = None
    """What the names of the network start with; found by default."""

    def __call__(self) -> None:
        from regvit_jax.convert.importing import import_checkpoint
        from regvit_jax.convert.inspection import describe_model, tell_import
        from regvit_jax.convert.probe import import_probe, is_probe
        from regvit_jax.convert.weights import read_weights

        if self.model_ema and self.weights not in (None, "ema"):
            raise InputError(f"--model-ema and --weights {self.weights} contradict each other.")
        role = "ema" if self.model_ema else self.weights
        weights = read_weights(self.src, False, self.family, role, self.prefix)
        if self.family is None and is_probe(weights):
            sizes = import_probe(weights, self.src, self.dst)
            widths = " -> ".join(map(str, sizes))
            sys.stdout.write(f"Wrote {self.dst}: the study's reconstruction probe, {widths}.\n")
            return
        imported = import_checkpoint(
            self.src,
            self.dst,
            self.family,
            role=role,
            prefix=self.prefix,
            **dataclasses.asdict(self.choices),
        )
        sys.stdout.write(f"Wrote {self.dst}: {describe_model(imported.config)}; ")
        sys.stdout.write(f"from {imported.dialect.title}.{tell_import(imported, self.src)}\n")


@dataclasses.dataclass(frozen=True)
class Export:
    """Write the weights of a checkpoint directory for PyTorch code to load.

    PyTorch is not needed.
    """

    dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Checkpoint directory, or a training run's."""
    dst: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DST")]
    """File to write, for transformers (hf...) a folder; must not exist."""
    family: ExportFamily
    """Whose code will load it."""
    format: FileFormat = "pth"
    """Format of the file."""
    drop_head: bool = False
    """Leave out the head, for families without one."""

    def __call__(self) -> None:
        from regvit_jax.convert.exporting import export_checkpoint
        from regvit_jax.convert.inspection import describe_model

        config = export_checkpoint(self.dir, self.dst, self.family, self.format, self.drop_head)
        title = DIALECTS[self.family].title
        sys.stdout.write(f"Wrote {self.dst}: {describe_model(config)}; for {title}.\n")


@dataclasses.dataclass(frozen=True)
class Verify:
    """Compare a checkpoint directory with the file that it was imported from.

    Where torch and the family's own library (timm, transformers) are installed, each side prepares
    the same photographs and runs its network on them; elsewhere only the weights are compared. The
    result is printed with what was assumed, and kept in the directory's config.json. The exit
    status is 1 if anything differs by more than its bound.
    """

    dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
    """Checkpoint directory."""
    against: Annotated[Path, tyro.conf.arg(metavar="SRC")]
    """What it was imported from."""
    images: Annotated[Path | None, tyro.conf.arg(metavar="PATH")] = None
    """Folder of photographs to compare on; some that come with scikit-image by default."""

    def __call__(self) -> None:
        from regvit_jax.convert.verification import to_table, verify

        result = verify(self.dir, self.against, self.images)
        sys.stdout.write(to_table(result))
        if not result.passed:
            raise SystemExit(1)


@dataclasses.dataclass(frozen=True)
class Inspect:
    """Print what a checkpoint is: a directory of ours, a training run's, or a file of weights."""

    path: Annotated[Path, tyro.conf.Positional]
    """The checkpoint: a directory or a file."""
    json: bool = False
    """Print JSON instead of a table."""

    def __call__(self) -> None:
        from regvit_jax.convert.inspection import inspect, to_json, to_table

        report = inspect(self.path)
        sys.stdout.write(to_json(report) if self.json else to_table(report))


@dataclasses.dataclass(frozen=True)
class Families:
    """Print which models can be imported: sizes, registers, where they are published, licence,
    command, and what `verify` compares them with.
    """

    markdown: bool = False
    """Print the page of the documentation instead."""

    def __call__(self) -> None:
        from regvit_jax.convert.families import to_markdown, to_text

        sys.stdout.write(to_markdown() if self.markdown else to_text())


def main() -> None:
    """Runs `regvit-convert`."""
    console.run(_main)


COMMANDS: dict[str, Any] = {
    "import": Import,
    "export": Export,
    "inspect": Inspect,
    "verify": Verify,
    "families": Families,
}


def _main() -> None:
    check_arguments(sys.argv[1:], COMMANDS, "regvit-convert")
    with in_our_words("regvit-convert", *sys.argv[1:2]):
        command = tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            args=gathered(sys.argv[1:]),
            prog="regvit-convert",
            description="Convert checkpoints between PyTorch and regvit_jax. "
            f"{console.VERSION_HINT}",
        )
    command()
