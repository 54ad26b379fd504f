"""What does the `config.json` of a timm folder say, and what do timm's training arguments?

Reference: `resolve_data_config` and `load_model_config_from_hf` of timm.
"""

import re
from collections.abc import Mapping
from typing import Any

from regvit_jax import strict_json
from regvit_jax.convert.facts import Facts, Statement
from regvit_jax.errors import InputError

_HEADS: dict[str, dict[int, int]] = {
    "tiny": {192: 3},
    "small": {384: 6, 768: 8},  # the wide one is that of timm before 0.4
    "medium": {512: 8},
    "base": {768: 12},
    "large": {1024: 16},
    "huge": {1280: 16},
    "giant": {1536: 24},
    "giant2": {1536: 24},
}
"""Heads by width that timm and DeiT give to the sizes in an architecture's name."""

_DEFAULT_CROP = 0.875
_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a folder's `config.json` is timm's."""
    return "model_type" not in config and ("pretrained_cfg" in config or "architecture" in config)


def folder_facts(config: Mapping[str, Any], label: str) -> Facts:
    """Pixels, class names and sizes from the `config.json` of a timm folder.

    Raises:
      InputError: If a value cannot be; names the field.
    """
    top = Statement(config, label)
    trained = top.inside("pretrained_cfg") if top.has("pretrained_cfg") else top
    found = pixel_facts(trained) | _sizes(top, trained) | architecture_facts(top, "architecture")
    if "crop" not in found:
        found |= trained.fact("crop", _DEFAULT_CROP, "crop_pct (timm's default)")
    if top.has("model_args"):
        found |= _model_arguments(top.inside("model_args"))
    return found | _labels(top, trained)


def pixel_facts(said: Statement) -> Facts:
    """Normalisation, crop and resizing, by timm's names."""
    found: Facts = {}
    for name in ("mean", "std"):
        if said.has(name):
            value = said.three(name, 0.0 if name == "std" else -1e3, 1e3)
            found |= said.fact(name, value, name)
    if said.has("crop_pct"):
        found |= said.fact("crop", said.number("crop_pct", 0.0, 1.0), "crop_pct")
    if said.has("interpolation") and said.values["interpolation"] != "":
        found |= said.fact("interpolation", said.text("interpolation"), "interpolation")
    if said.has("crop_mode"):
        mode = said.text("crop_mode")
        if mode not in ("center", "squash", "border"):
            said.refuse("crop_mode", repr(mode), "'center', 'squash' or 'border'")
        found |= said.fact("resize", {"center": "crop"}.get(mode, mode), "crop_mode")
    if said.has("img_size"):
        found |= said.fact("image_size", said.square("img_size"), "img_size")
    elif isinstance(said.values.get("input_size"), list | tuple):
        found |= said.fact("image_size", said.square("input_size"), "input_size")
    return found


def architecture_facts(said: Statement, *names: str) -> Facts:
    """The heads of the architecture that is named, valid for the width that belongs to it."""
    for name in names:
        if said.has(name) and isinstance(said.values[name], str):
            if "_rpn_" in said.values[name]:
                said.refuse(name, said.values[name], "blocks whose norms come before their layers")
            # MoCo v3's small one has twice as many heads, under the same name.
            match = re.match(
                r"(?:deit3|deit|vit|dinov2_vit|regdeit)_(\w+?)_(?:distilled_)?(?:patch|resnet)",
                said.values[name],
            )
            if match and match[1] in _HEADS:
                return said.fact("architecture_heads", _HEADS[match[1]], name)
    return {}


def _sizes(top: Statement, trained: Statement) -> Facts:
    found: Facts = {}
    if trained.has("input_size"):
        fixed = trained.truth("fixed_input_size", True)
        side = trained.square("input_size")
        found |= trained.fact("image_size" if fixed else "eval_px", side, "input_size")
        if not fixed:
            found["image_size"] = found["eval_px"]
    owner = top if top.has("num_classes") else trained
    if owner.has("num_classes"):
        found |= owner.fact("num_classes", owner.whole("num_classes", 0), "num_classes")
    if top.has("global_pool"):
        found |= top.fact("pooling", top.text("global_pool"), "global_pool")
    return found


def _model_arguments(said: Statement) -> Facts:
    """What timm is told when it builds the model; it wins over the architecture's name."""
    names = {"num_heads": "num_heads", "embed_dim": "embed_dim", "depth": "depth"}
    found: Facts = {}
    for theirs, ours in names.items():
        if said.has(theirs):
            found |= said.fact(ours, said.whole(theirs, 1), theirs)
    for theirs, ours in {"img_size": "image_size", "patch_size": "patch_size"}.items():
        if said.has(theirs):
            found |= said.fact(ours, said.square(theirs), theirs)
    if said.has("reg_tokens"):
        found |= said.fact("num_registers", said.whole("reg_tokens", 0), "reg_tokens")
    if said.has("global_pool"):
        found |= said.fact("pooling", said.text("global_pool"), "global_pool")
    if said.has("act_layer") and isinstance(said.values["act_layer"], str):
        name = said.text("act_layer")
        if name in _ACTIVATIONS:
            found |= said.fact("mlp", _ACTIVATIONS[name], "act_layer")
        elif name in ("silu", "swish"):
            found |= said.fact("gated", True, "act_layer")
        else:
            raise InputError(
                f"{said.label}: model_args.act_layer is {name!r}, which our models do not compute; "
                f"known are {', '.join(_ACTIVATIONS)}."
            )
    return found


def _labels(top: Statement, trained: Statement) -> Facts:
    for owner, name in ((top, "label_names"), (trained, "label_names"), (top, "labels")):
        if owner.has(name) and not isinstance(owner.values[name], str):
            items = owner.values[name]
            label = f"{owner.label}: {name}"
            items = strict_json.expect(items, list, label)
            each = tuple(strict_json.expect(item, str, f"{label}[]") for item in items)
            if each:
                return owner.fact("class_names", each, name)
    return {}
