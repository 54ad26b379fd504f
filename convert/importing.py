"""How does a file of PyTorch weights become a checkpoint directory?"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from regvit_jax.arrays import check_place
from regvit_jax.config import ViTConfig
from regvit_jax.convert.addresses import Role
from regvit_jax.convert.choices import Choices
from regvit_jax.convert.decision import Decision, decide
from regvit_jax.convert.dialect import Dialect
from regvit_jax.convert.recognise import Match
from regvit_jax.convert.rules import rules
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.weights import Weights, read_weights
from regvit_jax.errors import InputError


class Imported(NamedTuple):
    """What was imported, and how it was understood."""

    decision: Decision
    weights: Weights

    @property
    def match(self) -> Match:
        return self.decision.match

    @property
    def config(self) -> ViTConfig:
        return self.match.config

    @property
    def family(self) -> str:
        return self.match.family

    @property
    def dialect(self) -> Dialect:
        return self.match.dialect

    @property
    def dropped(self) -> list[str]:
        """What was left out: tensors by name, other branches in words."""
        return [*self.match.dropped, *self.weights.left_out, *self.decision.left_out]


def import_checkpoint(
    source: Path | str,
    directory: Path | str,
    family: str | None = None,
    model_ema: bool = False,
    num_heads: int | None = None,
    *,
    role: Role | None = None,
    prefix: str | None = None,
    **said: Any,
) -> Imported:
    """Writes a checkpoint directory with the weights of a file, and says what they are.

    Args:
      source: A file of weights, or a folder as transformers or timm saves it.
      directory: Must not exist.
      family: A name in `regvit_jax.convert.dialects.DIALECTS`; None recognises it.
      model_ema: Take the moving average of the weights.
      num_heads: Attention heads, where no file says them.
      role: Which copy of the network: "teacher", "student" or "ema".
      prefix: What the names of the network start with.
      said: Other fields of `regvit_jax.convert.choices.Choices`: mean, std, crop, image_size, ...

    Raises:
      InputError: If the file is no checkpoint, fits no family, or the directory exists.
    """
    source, directory = Path(source), Path(directory)
    if directory.exists():
        raise InputError(f"{directory} exists already. Choose another name, or remove it first.")
    check_place(directory.resolve())
    choices = Choices(num_heads=num_heads, **said)
    weights = read_weights(source, model_ema, family, role, prefix)
    decision = decide(weights, str(source), family, choices)
    match = decision.match
    params = to_ours(weights.tensors, match.dialect, match.config, str(source))

    from regvit_jax.checkpoint import CheckpointInfo, save, unflatten

    info = CheckpointInfo(
        model=match.config,
        source=_describe(source, weights, decision, choices),
        class_names=decision.class_names,
        preprocess=decision.preprocess,
    )
    save(directory, unflatten(params), info)
    return Imported(decision, weights)


def to_ours(
    tensors: Mapping[str, Stored], dialect: Dialect, config: ViTConfig, label: str
) -> dict[str, np.ndarray]:
    """Our parameters in float32, from tensors that `recognise` found to be complete.

    Raises:
      InputError: If values are infinite or not a number; names all such tensors.
    """
    params: dict[str, np.ndarray] = {}
    broken: list[str] = []
    for rule in rules(dialect, config):
        arrays = [as_float32(tensors[name].read()) for name in rule.theirs]
        for name, array in zip(rule.theirs, arrays, strict=True):
            if count := array.size - int(np.isfinite(array).sum()):
                broken.append(f"{name}: {count} of {array.size} values")
        params |= zip(rule.ours, rule.transform.to_ours(arrays), strict=True)
    if broken:
        raise InputError(
            f"{label} holds values that are infinite, not a number or beyond float32:\n  "
            + "\n  ".join(broken)
            + "\nIts training has diverged or the file is damaged. Use an earlier checkpoint."
        )
    return params


def as_float32(array: np.ndarray) -> np.ndarray:
    """The same numbers in float32; those beyond its range become infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)


def hash_files(files: Sequence[Path], is_folder: bool) -> str | dict[str, str]:
    """SHA-256 of the source: of the file, or by name of the files in a folder."""
    hashes = {file.name: _sha256(file) for file in files}
    return hashes if is_folder else hashes[files[0].name]


def _describe(
    source: Path, weights: Weights, decision: Decision, choices: Choices
) -> dict[str, object]:
    """What `config.json` tells of the source; words of the file never replace ours."""
    return weights.about | {
        "file": source.name,
        "sha256": hash_files(weights.files, source.is_dir()),
        "format": weights.format,
        "family": decision.match.family,
        "prefix": weights.prefix,
        "left_out": [*decision.match.dropped, *weights.left_out, *decision.left_out],
        "said": decision.said,
        "given": choices.said,
        "assumed": [item._asdict() for item in decision.assumed],
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
