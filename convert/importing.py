"""How does a file of PyTorch weights become a checkpoint directory?"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.convert.dialects import Dialect
from regvit_jax.convert.recognise import Match, recognise
from regvit_jax.convert.rules import rules
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.weights import Weights, read_weights
from regvit_jax.errors import InputError


def import_checkpoint(
    source: Path,
    directory: Path,
    family: str | None = None,
    model_ema: bool = False,
    num_heads: int | None = None,
) -> Match:
    """Writes a checkpoint directory with the weights of a file, and says what they are.

    Args:
      source: A file of weights, or a folder as transformers saves it.
      directory: Must not exist.
      family: A name in `regvit_jax.convert.dialects.DIALECTS`; None recognises it.
      model_ema: Take the moving average of the weights.
      num_heads: Attention heads, for widths that no published model has.

    Raises:
      InputError: If the file is no checkpoint, fits no family, or the directory exists.
    """
    if directory.exists():
        raise InputError(f"{directory} exists already. Choose another name, or remove it first.")
    weights = read_weights(source, model_ema)
    known = weights.known | ({} if num_heads is None else {"num_heads": num_heads})
    match = recognise(weights.tensors, family, known)
    match.check(str(source))
    params = to_ours(weights.tensors, match.dialect, match.config, str(source))

    from regvit_jax.checkpoint import CheckpointInfo, save, unflatten
    from regvit_jax.preprocess import Preprocess

    side = match.dialect.eval_px or match.config.image_size
    short_side = round(side / match.dialect.crop_fraction)
    info = CheckpointInfo(
        model=match.config,
        source=_describe(source, weights, match),
        preprocess=Preprocess(side, side, short_side=short_side, **weights.pixels),
    )
    save(directory, unflatten(params), info)
    return match


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


def hash_files(weights: Weights) -> str | dict[str, str]:
    """SHA-256 of the source: of the file, or by name of the files in a folder."""
    hashes = {file.name: _sha256(file) for file in weights.files}
    return hashes if weights.format.startswith("folder") else hashes[weights.files[0].name]


def _describe(source: Path, weights: Weights, match: Match) -> dict[str, object]:
    """What `config.json` tells of the source; words of the file never replace ours."""
    return weights.about | {
        "file": source.name,
        "sha256": hash_files(weights),
        "format": weights.format,
        "family": match.family,
        "left_out": match.dropped,
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
