"""How does a checkpoint directory become a file that a family's own PyTorch code loads?"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.convert import pth_writing, safetensors
from regvit_jax.convert.dialects import DIALECTS, Dialect, ExportFamily, FileFormat
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
      destination: File to write, for "hf" a folder; must not exist.
      family: Whose code will load it.
      file_format: Of the file.
      drop_head: Leave out the head, for families without one.

    Raises:
      InputError: If the destination exists, or the family has no place for a part of the model.
    """
    directory, destination = Path(directory), Path(destination)
    if destination.exists():
        raise InputError(f"{destination} exists already. Choose another name, or remove it first.")

    from regvit_jax.checkpoint import flatten, load

    model, params = load(directory)
    config = dataclasses.replace(model.config, num_classes=0) if drop_head else model.config
    check_place(directory, config, family)
    tensors = to_theirs(flatten(params), DIALECTS[family], config)
    with appearing(destination) as partial:
        if family == "hf":
            partial.mkdir()
            text = json.dumps(hugging_face_config(config), indent=2)
            (partial / "config.json").write_text(text + "\n")
            partial = partial / _FOLDER_FILES[file_format]
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
        tensors[dialect.mask_token] = np.zeros((1, config.embed_dim), np.float32)
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
    if family == "hf" and _hugging_face_ratio(config) is None:
        reasons.append(f"an MLP {config.mlp_ratio} x as wide as the tokens")
    if reasons:
        cure = " Leave the head out with --drop-head." if reasons == ["a head"] else ""
        raise InputError(
            f"{directory} cannot be written as {dialect.title}, which has no place for "
            f"{', '.join(reasons)}.{cure}"
        )


def hugging_face_config(config: ViTConfig) -> dict[str, Any]:
    """The `config.json` with which transformers builds the model.

    Reference: `Dinov2Config` and `Dinov2WithRegistersConfig` of transformers.
    """
    registers = config.num_registers > 0
    return {
        "architectures": ["Dinov2WithRegistersModel" if registers else "Dinov2Model"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "mlp_ratio": _hugging_face_ratio(config),
        "hidden_act": "gelu",
        "layer_norm_eps": config.layer_norm_epsilon,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": 3,
        "qkv_bias": True,
        "drop_path_rate": 0.0,
        "use_swiglu_ffn": config.mlp == "swiglu",
        **({"num_register_tokens": config.num_registers} if registers else {}),
    }


def _hugging_face_ratio(config: ViTConfig) -> int | None:
    """The whole number from which transformers finds the MLP's width; None if there is none."""
    for ratio in range(1, 65):
        width = config.embed_dim * ratio
        if config.mlp == "swiglu":  # two thirds, rounded up to a multiple of 8
            width = (int(width * 2 / 3) + 7) // 8 * 8
        if width == config.mlp_dim:
            return ratio
    return None
