"""How does a file of PyTorch weights become a checkpoint directory?"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from convert.dialects import Dialect
from convert.recognise import Match, recognise
from convert.rules import rules
from convert.stored import Stored
from convert.weights import Weights, read_weights
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError


class Imported(NamedTuple):
    """What an import found and wrote."""

    match: Match
    num_parameters: int


def import_checkpoint(
    source: Path,
    directory: Path,
    family: str | None = None,
    model_ema: bool = False,
    num_heads: int | None = None,
) -> Imported:
    """Writes a checkpoint directory with the weights of a file.

    Args:
      source: A file of weights.
      directory: Must not exist.
      family: A name in `convert.dialects.DIALECTS`; None recognises it.
      model_ema: Take the moving average of the weights.
      num_heads: Attention heads, for widths that no published model has.

    Raises:
      InputError: If the file is no checkpoint, fits no family, or the directory exists.
    """
    if directory.exists():
        raise InputError(f"{directory} exists already. Choose another name, or remove it first.")
    weights = read_weights(source, model_ema)
    match = recognise(weights.tensors, family, num_heads)
    match.check(str(source))
    params = to_ours(weights.tensors, match.dialect, match.config, str(source))

    from regvit_jax.checkpoint import CheckpointInfo, save, unflatten
    from regvit_jax.preprocess import Preprocess

    info = CheckpointInfo(
        model=match.config,
        source=_describe(weights, match),
        preprocess=Preprocess.square(match.config.image_size),
    )
    save(directory, unflatten(params), info)
    return Imported(match, sum(value.size for value in params.values()))


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
        arrays = [_as_float32(tensors[name].read()) for name in rule.theirs]
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


def _as_float32(array: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)


def _describe(weights: Weights, match: Match) -> dict[str, object]:
    """What `config.json` tells of the source."""
    with weights.path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "file": weights.path.name,
        "sha256": sha256,
        "format": weights.format,
        "family": match.family,
        **weights.about,
    }
