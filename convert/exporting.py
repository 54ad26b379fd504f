"""How does a checkpoint directory become a file that a family's own PyTorch code loads?"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.convert import pth_writing, safetensors
from regvit_jax.convert.dialect import Dialect
from regvit_jax.convert.dialects import DIALECTS, ExportFamily, FileFormat
from regvit_jax.convert.hugging_face_config import FAMILIES as FOLDERS
from regvit_jax.convert.hugging_face_config import (
    HEADS,
    hugging_face_config,
    prefix,
    whole_ratio,
)
from regvit_jax.convert.rules import rules
from regvit_jax.errors import InputError
from regvit_jax.whole import appearing

_PTH_WRAPPERS: Mapping[str, str] = {"deit": "model"}
"""Under which name a family's code looks for the weights of a .pth file."""

_FOLDER_FILES: Mapping[str, str] = {"pth": "pytorch_model.bin", "safetensors": "model.safetensors"}
"""What transformers calls the weights in its folder."""


def export_checkpoint(
    directory: Path | str,
    destination: Path | str,
    family: ExportFamily,
    file_format: FileFormat = "pth",
    drop_head: bool = False,
) -> ViTConfig:
    """Writes the weights of a checkpoint directory for PyTorch, and says what they are.

    Args:
      directory: A checkpoint directory, or a training run's.
      destination: File to write, for transformers a folder; must not exist.
      family: Whose code will load it.
      file_format: Of the file.
      drop_head: Leave out the head, for families without one.

    Raises:
      InputError: If the destination exists, or the family has no place for a part of the model.
    """
    directory, destination = Path(directory), Path(destination)
    if destination.exists():
        raise InputError(f"{destination} exists already. Choose another name, or remove it first.")

    from regvit_jax.checkpoint import flatten, load, read_info

    model, params = load(directory)
    config = dataclasses.replace(model.config, num_classes=0) if drop_head else model.config
    check_place(directory, config, family)
    tensors = to_theirs(flatten(params), DIALECTS[family], config)
    with appearing(destination) as partial:
        if family in FOLDERS:
            partial.mkdir()
            names = read_info(directory).class_names
            text = json.dumps(hugging_face_config(config, family, names), indent=2)
            (partial / "config.json").write_text(text + "\n")
            partial = partial / _FOLDER_FILES[file_format]
            base = prefix(config, family)
            tensors = {n if n.startswith(HEADS) else base + n: v for n, v in tensors.items()}
        with partial.open("wb") as file:
            if file_format == "safetensors":
                safetensors.write(file, tensors, {"format": "pt"})
            else:
                pth_writing.write(file, tensors, _PTH_WRAPPERS.get(family))
    return config


def to_theirs(
    params: Mapping[str, np.ndarray], dialect: Dialect, config: ViTConfig
) -> dict[str, np.ndarray]:
    """The tensors of a dialect, from our parameters by "/"-joined name."""
    tensors: dict[str, np.ndarray] = {}
    if dialect.mask_token:
        shape = (1,) * (dialect.mask_axes - 1) + (config.embed_dim,)
        tensors[dialect.mask_token] = np.zeros(shape, np.float32)
    for rule in rules(dialect, config):
        arrays = rule.transform.to_theirs([params[name] for name in rule.ours])
        tensors |= zip(rule.theirs, arrays, strict=True)
    return tensors


def check_place(directory: Path, config: ViTConfig, family: str) -> None:
    """Does nothing if a family can hold all of a model.

    Raises:
      InputError: If it cannot; names what it has no place for.
    """
    dialect = DIALECTS[family]
    reasons = dialect.cannot_hold(config)
    if family == "hf" and whole_ratio(config) is None:
        reasons.append(f"an MLP {config.mlp_ratio} x as wide as the tokens")
    if reasons:
        is_head = all(reason.startswith("a head") for reason in reasons)
        cure = " Leave the head out with --drop-head." if is_head else ""
        raise InputError(
            f"{directory} cannot be written as {dialect.title}, which has no place for "
            f"{', '.join(reasons)}.{cure}"
        )
