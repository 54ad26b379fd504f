"""Which tensors does a file hold, and what does it say about them?

A file is known by its first bytes, never by its name; what is no checkpoint is called by its name.
"""

import math
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from convert import pickles, pth
from convert.stored import Stored
from regvit_jax.errors import InputError

EXPECTED = "Expected a PyTorch file (.pth, .pt)"

_WRAPPERS = ("model", "state_dict", "model_state_dict")
"""Under which names training code puts the weights, among other things."""
_EMA_WRAPPERS = ("model_ema", "state_dict_ema")
_PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel training and torch.compile put before every name."""


class Weights(NamedTuple):
    """The tensors of a file by name, not yet read."""

    path: Path
    format: str
    tensors: dict[str, Stored]
    about: dict[str, Any]
    """The numbers and words that training code saved beside them, and its arguments."""


def read_weights(path: Path, model_ema: bool = False) -> Weights:
    """The tensors of a checkpoint file.

    Args:
      path: Of the file.
      model_ema: Take the moving average of the weights, which training code saves beside them.

    Raises:
      InputError: If it is no checkpoint, or a damaged one; says what it is.
    """
    return _from_pth(pth.read(path), model_ema) if _is_pth(path) else _refuse(path)


def _is_pth(path: Path) -> bool:
    if not path.exists():
        raise InputError(f"There is no file {path}.")
    if path.is_dir():
        raise InputError(f"{path} is a folder. {EXPECTED}.")
    with path.open("rb") as file:
        head = file.read(len(pth.LEGACY_MAGIC))
    return head.startswith(pth.ZIP_MAGIC) or head == pth.LEGACY_MAGIC


def _refuse(path: Path) -> Weights:
    with path.open("rb") as file:
        head = file.read(512)
    text = head.lstrip().lower()
    if not head:
        what = "is empty: its download or copy has failed. Get it again"
    elif text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        what = (
            "is a web page, not weights: its download has failed, most often because the address "
            "leads to a page that asks for a login or a confirmation. Download it with a browser"
        )
    elif text.startswith(b"version https://git-lfs"):
        what = "is a Git LFS pointer, not the weights themselves. Run `git lfs pull`"
    elif head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf")):
        what = "is compressed. Unpack it first"
    elif head.startswith(b"\x80") and head[1:2] in b"\x02\x03\x04\x05":
        what = "is a pickle that torch.save did not write (or a PyTorch file that was cut short)"
    elif text.startswith((b"{", b"[")):
        what = "is text (JSON), not weights"
    else:
        what = f"is no checkpoint of a known kind (it starts with {head[:8]!r})"
    raise InputError(f"{path} {what}. {EXPECTED}.")


def _from_pth(file: pth.PthFile, model_ema: bool) -> Weights:
    state, about = _unwrap(file, model_ema)
    wrong = [
        f"{name!r} ({type(value).__name__})"
        for name, value in state.items()
        if not (isinstance(name, str) and isinstance(value, pickles.Tensor))
    ]
    if wrong or not state:
        raise InputError(
            f"{file.path} holds {_listed(wrong)} where named tensors were expected."
            if wrong
            else f"{file.path} holds no tensors."
        )
    tensors = {name: file.stored(tensor) for name, tensor in _without_prefix(state).items()}
    return Weights(file.path, file.format, tensors, about)


def _unwrap(file: pth.PthFile, model_ema: bool) -> tuple[Mapping[Any, Any], dict[str, Any]]:
    """The named tensors of a file, and what else it says."""
    content = file.content
    if not isinstance(content, dict):
        raise InputError(
            f"{file.path} holds a {type(content).__name__}, not named tensors. Expected what "
            "torch.save(model.state_dict()) writes."
        )
    wrappers = _EMA_WRAPPERS if model_ema else _WRAPPERS
    found = [name for name in wrappers if isinstance(content.get(name), dict)]
    if model_ema and not found:
        raise InputError(
            f"{file.path} has no moving average of its weights ({' or '.join(wrappers)}). Leave "
            "out --model-ema."
        )
    if not found:
        return content, {}
    about = {name: value for name, value in content.items() if isinstance(name, str)}
    has_ema = any(name in content for name in _EMA_WRAPPERS)
    return content[found[0]], {
        "weights": found[0],
        "has_model_ema": has_ema,
        **_plain(about),
    }


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


def _without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in state):
            return _without_prefix({name.removeprefix(prefix): state[name] for name in state})
    return dict(state)


def _listed(items: list[str], limit: int = 5) -> str:
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more
