"""Which tensors does a file or folder hold, and what does it say about them?

A file is known by its first bytes, never by its name; what is no checkpoint is called by its name.
"""

import dataclasses
import json
import math
import re
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from regvit_jax.convert import pickles, pth, safetensors
from regvit_jax.convert.stored import Stored
from regvit_jax.errors import InputError

EXPECTED = "Expected weights: .pth, .safetensors, .msgpack, or a folder of Hugging Face"

FOLDER_FILES = ("*.safetensors", "pytorch_model*.bin")
"""Where a folder keeps its weights: the first of these that is there."""

_WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Under which names training code puts the weights, among other things."""
_EMA_WRAPPERS = ("model_ema", "state_dict_ema")
_PREFIXES = ("module.", "_orig_mod.", "vit.", "dinov2.", "dinov2_with_registers.")
"""What data-parallel training, torch.compile and transformers put before every name."""
_OUTSIDE_PREFIXES = ("classifier.",)
"""transformers' names that stand beside the prefixed ones."""

_NON_LINEARITIES = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


@dataclasses.dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint by name, not yet read."""

    files: tuple[Path, ...]
    format: str
    tensors: dict[str, Stored]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The numbers and words that were saved beside them, training arguments among them."""
    known: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `ViTConfig` that a configuration beside them tells."""
    pixels: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of `Preprocess` that a configuration beside them tells."""


def read_weights(path: Path, model_ema: bool = False) -> Weights:
    """The tensors of a checkpoint.

    Args:
      path: Of the file, or of a folder as transformers saves it.
      model_ema: Take the moving average of the weights, which training code saves beside them.

    Raises:
      InputError: If it is no checkpoint, or a damaged one; says what it is.
    """
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    weights = _from_folder(path) if path.is_dir() else _from_file(path, model_ema)
    if model_ema and weights.about.get("weights") not in _EMA_WRAPPERS:
        raise InputError(
            f"{path} has no moving average of its weights ({' or '.join(_EMA_WRAPPERS)}). Leave "
            "out --model-ema."
        )
    if not weights.tensors:
        raise InputError(f"{path} holds no tensors. {EXPECTED}.")
    return weights


def _from_file(path: Path, model_ema: bool = False) -> Weights:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((pth.ZIP_MAGIC, pth.LEGACY_MAGIC)):
        return _from_pth(pth.read(path), model_ema)
    if safetensors.is_safetensors(head):
        tensors, metadata = safetensors.read(path)
        return Weights((path,), "safetensors", _without_prefix(tensors), {"metadata": metadata})
    if head[:1] in (b"\xde", b"\xdf") or b"\x81" <= head[:1] <= b"\x8f":
        from regvit_jax.convert import flax_file

        return Weights((path,), "Flax msgpack", flax_file.read(path))
    raise InputError(f"{path} {_describe(head)}. {EXPECTED}.")


def _describe(head: bytes) -> str:
    """What a file is that is no checkpoint, and what to do about it."""
    text = head.lstrip().lower()
    if not head:
        return "is empty: its download or copy has failed. Get it again"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return (
            "is a web page, not weights: its download has failed, most often because the address "
            "leads to a page that asks for a login or a confirmation. Download it with a browser"
        )
    if text.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the weights themselves. Run `git lfs pull`"
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        return "is compressed. Unpack it first"
    if head.startswith(b"\x80"):
        return "is a pickle that torch.save did not write, or a PyTorch file that was cut short"
    if text.startswith((b"{", b"[")):
        return "is text (JSON), not weights"
    return f"is no checkpoint of a known kind (it starts with {head[:8]!r})"


def _from_pth(file: pth.PthFile, model_ema: bool) -> Weights:
    state, about = _unwrap(file, model_ema)
    wrong = [
        f"{name!r} ({type(value).__name__})"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, pickles.Tensor))
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(
            f"{file.path} holds {', '.join(wrong[:5])}{more} where named tensors were expected."
        )
    tensors = {name: file.stored(tensor) for name, tensor in state.items()}
    return Weights((file.path,), file.format, _without_prefix(tensors), about)


def _unwrap(file: pth.PthFile, model_ema: bool) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """The named tensors of a file, and what else it says."""
    content = file.content
    if not isinstance(content, dict):
        raise InputError(
            f"{file.path} holds a {type(content).__name__}, not named tensors. Expected what "
            "torch.save(model.state_dict()) writes."
        )
    wrappers = _EMA_WRAPPERS if model_ema else _WRAPPERS
    wrapper = next((name for name in wrappers if isinstance(content.get(name), dict)), None)
    if wrapper is None:
        return content, {}
    words = {name: value for name, value in content.items() if isinstance(name, str)}
    has_ema = any(name in content for name in _EMA_WRAPPERS)
    return content[wrapper], {"weights": wrapper, "has_model_ema": has_ema, **_plain(words)}


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers and words among some values; arguments of a command line as a dictionary."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, types.SimpleNamespace):
            plain[name] = _plain(vars(value))
        elif isinstance(value, float) and not math.isfinite(value):
            plain[name] = str(value)
        elif isinstance(value, str | int | float | bool):
            plain[name] = value
    return plain


def _without_prefix(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors under the names that the model itself gives them."""
    inside = [name for name in tensors if not name.startswith(_OUTSIDE_PREFIXES)]
    for prefix in _PREFIXES:
        if inside and all(name.startswith(prefix) for name in inside):
            return _without_prefix({k.removeprefix(prefix): v for k, v in tensors.items()})
    # DINOv2 trains with its blocks in chunks, "blocks.CHUNK.BLOCK".
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", k): v for k, v in tensors.items()}


def _from_folder(path: Path) -> Weights:
    """The weights of a folder that transformers or timm saved, in one file or in shards."""
    files = next(filter(None, (sorted(path.glob(name)) for name in FOLDER_FILES)), [])
    if not files:
        raise InputError(f"{path} is a folder without weights. {EXPECTED}.")
    config = _read_json(path / "config.json")
    parts = [_from_file(file) for file in files]
    tensors: dict[str, Stored] = {}
    for part in parts:
        tensors |= part.tensors
    about: dict[str, Any] = {k: config[k] for k in ("model_type", "architecture") if k in config}
    pixels = _read_json(path / "preprocessor_config.json")
    return Weights(
        files=tuple(files),
        format=f"folder of {parts[0].format}",
        tensors=tensors,
        about=about,
        known=_known(path, config),
        pixels={
            ours: tuple(pixels[theirs])
            for ours, theirs in (("mean", "image_mean"), ("std", "image_std"))
            if theirs in pixels
        },
    )


def _known(path: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """What transformers' configuration tells and tensors do not."""
    names = {"num_heads": "num_attention_heads", "layer_norm_epsilon": "layer_norm_eps"}
    known = {ours: config[theirs] for ours, theirs in names.items() if theirs in config}
    if "hidden_act" in config and not config.get("use_swiglu_ffn"):
        if config["hidden_act"] not in _NON_LINEARITIES:
            raise InputError(
                f"{path} has the non-linearity {config['hidden_act']!r}; known are "
                f"{', '.join(_NON_LINEARITIES)}."
            )
        known["mlp"] = _NON_LINEARITIES[config["hidden_act"]]
    return known


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON file's dictionary, empty where there is no such file."""
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a configuration.")
    return content
