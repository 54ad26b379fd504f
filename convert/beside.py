"""What did training code save beside the weights, and what does it say of the model?"""

import math
import types
from collections.abc import Mapping
from typing import Any

from regvit_jax.convert.facts import Facts, Statement
from regvit_jax.convert.timm_facts import architecture_facts, pixel_facts

_ARGUMENTS = ("args", "hyper_parameters", "hparams", "config", "opt")
"""Where training code keeps its settings."""

_MAX_LIST = 32


def plain(content: Mapping[Any, Any]) -> dict[str, Any]:
    """The numbers and words among what was saved; arguments of a command line as a dictionary."""
    kept: dict[str, Any] = {}
    for name, value in content.items():
        if type(name) is not str:
            continue
        if isinstance(value, types.SimpleNamespace):
            kept[name] = plain(vars(value))
        elif name in _ARGUMENTS and isinstance(value, Mapping):
            kept[name] = plain(value)
        elif isinstance(value, list | tuple) and 0 < len(value) <= _MAX_LIST:
            if all(_is_plain(item) for item in value):
                kept[name] = [_printable(item) for item in value]
        elif _is_plain(value):
            kept[name] = _printable(value)
    return kept


def facts(content: Mapping[Any, Any], label: str) -> Facts:
    """What training arguments say: architecture, image size, normalisation, crop; class names.

    Raises:
      InputError: If a value cannot be.
    """
    found: Facts = {}
    saved = plain(content)
    arguments = saved.get("args")
    if isinstance(arguments, dict):
        said = Statement(arguments, label, "training arguments")
        found |= pixel_facts(said) | architecture_facts(said, "model", "arch")
        if "image_size" not in found and isinstance(arguments.get("input_size"), int):
            found |= said.fact("image_size", said.whole("input_size", 1), "input_size")
        if arguments.get("eval_crop_ratio") is not None:  # of DeiT's own code
            crop = said.number("eval_crop_ratio", 0.0, 1.0)
            found |= said.fact("crop", crop, "eval_crop_ratio")
    if isinstance(saved.get("arch"), str):
        found |= architecture_facts(Statement(saved, label, "file"), "arch")
    return found | _class_names(content, label)


def _class_names(content: Mapping[Any, Any], label: str) -> Facts:
    """The names that MMPretrain keeps; of its data, which the head may have outgrown."""
    for group, name in (("meta", "CLASSES"), ("meta", "dataset_meta"), ("dataset_meta", "classes")):
        values = content.get(group)
        names = values.get(name) if isinstance(values, Mapping) else None
        if isinstance(names, Mapping):
            names = names.get("classes") or names.get("CLASSES")
        if isinstance(names, list | tuple) and names and all(type(n) is str for n in names):
            said = Statement({}, label, group)
            return said.fact("class_names_of_training", tuple(names), name)
    return {}


def _is_plain(value: Any) -> bool:
    return type(value) in (str, int, float, bool)


def _printable(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
