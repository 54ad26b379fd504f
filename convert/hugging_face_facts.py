"""What do `config.json` and `preprocessor_config.json` of a transformers folder say?

Reference: `ViTConfig`, `Dinov2Config`, `ViTImageProcessor` and `BitImageProcessor` of transformers.
"""

import re
from collections.abc import Mapping
from typing import Any

from regvit_jax.convert.facts import Fact, Facts, Statement
from regvit_jax.errors import InputError

MODEL_TYPES = (
    *("vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "clip"),
)
"""What transformers calls the models that are known here."""

_NON_LINEARITIES = {
    **{"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"},
    "quick_gelu": "quick_gelu",
}
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
"""Pillow's numbers."""
_STEPS = frozenset(
    {"do_resize", "do_rescale", "do_normalize", "do_center_crop", "do_convert_rgb"}
    | {"do_reduce_labels"}
)
"""Steps of preprocessing that are done here, or that concern no pixel."""
_OTHER_STEPS = ("offset", "rescale_offset", "include_top")
_SHORT_EDGE = ("Bit", "CLIP", "ConvNext", "LeViT")
"""Processors for which a size that is one number is that of the short side."""


def model_facts(config: Mapping[str, Any], label: str) -> Facts:
    """The configuration of a model, and its class names.

    Raises:
      InputError: If the model's type is not known here, or a value cannot be; names the field.
    """
    said = Statement(config, label)
    if said.has("model_type") and said.text("model_type") not in MODEL_TYPES:
        raise InputError(
            f"{label} describes a model of type {said.text('model_type')!r}, which is not "
            f"supported; known are {', '.join(MODEL_TYPES)}."
        )
    if said.has("vision_config"):  # of CLIP, whose other half reads texts
        said = said.inside("vision_config")
    found: Facts = {}
    for theirs, ours in {
        "num_attention_heads": "num_heads",
        "hidden_size": "embed_dim",
        "num_hidden_layers": "depth",
    }.items():
        if said.has(theirs):
            found |= said.fact(ours, said.whole(theirs, 1), theirs)
    for name in ("image_size", "patch_size"):
        if said.has(name):
            found |= said.fact(name, said.square(name), name)
    if said.has("num_register_tokens"):
        found |= said.fact(
            "num_registers", said.whole("num_register_tokens", 0), "num_register_tokens"
        )
    if said.has("layer_norm_eps"):
        epsilon = said.number("layer_norm_eps", 0.0, 0.1)
        found |= said.fact("layer_norm_epsilon", epsilon, "layer_norm_eps")
    if said.has("num_channels"):
        found |= said.fact("num_channels", said.whole("num_channels", 1), "num_channels")
    if said.has("rope_theta"):
        found |= said.fact("rope_base", said.number("rope_theta", 1e-3, 1e12), "rope_theta")
    if said.has("qkv_bias"):
        found |= said.fact("qkv_bias", said.truth("qkv_bias", True), "qkv_bias")
    return found | _mlp(said) | _labels(said)


def pixel_facts(values: Mapping[str, Any], label: str) -> Facts:
    """The whole preprocessing.

    Raises:
      InputError: If a value cannot be; names the field.
    """
    said = Statement(values, label)
    _check_steps(said)
    found = _normalisation(said)
    if said.has("resample"):
        number = said.whole("resample", 0, 5)
        found |= said.fact("interpolation", _FILTERS[number], "resample")
    crops = said.truth("do_center_crop", said.has("crop_size"))
    crop = _size(said, "crop_size") if crops and said.has("crop_size") else None
    if not said.truth("do_resize", True):
        found |= said.fact("resize", "none", "do_resize")
        return found if crop is None else found | said.fact("eval_px", crop[1], "crop_size")
    if said.has("size"):
        kind, side = _size(said, "size")
        found |= said.fact("resize", "squash" if kind == "square" else "crop", "size")
        if kind == "short":
            found |= said.fact("short_side", side, "size") | said.fact("crop_start", "cut", "size")
            if not crops:
                said.refuse("do_center_crop", "false", "a crop after resizing the short side")
        elif crop is not None and crop[1] != side:
            said.refuse("crop_size", f"{crop[1]} px of {side} x {side} px", "that size")
        if crop is not None and crop[1] > side:
            said.refuse("crop_size", f"{crop[1]} px", f"at most the {side} px of size")
        px = crop or (kind, side)
        found |= said.fact("eval_px", px[1], "size" if crop is None else "crop_size")
    return found


def _check_steps(said: Statement) -> None:
    """Raises if pixels go through a step that is not done here, such as exchanging red and blue."""
    for name, value in said.values.items():
        is_step = name.startswith("do_") or name in _OTHER_STEPS
        if is_step and value is True and name not in _STEPS:
            said.refuse(name, "true", "false: no such step is known here")


def _normalisation(said: Statement) -> Facts:
    """Mean and standard deviation for pixels in [0, 1], whatever the file's own unit is."""
    found: Facts = {}
    scale = 1.0
    if not said.truth("do_rescale", True):
        scale = 255.0
    elif said.has("rescale_factor"):
        scale = 255.0 * said.number("rescale_factor", 0.0, 1000.0)
        scale = 1.0 if abs(scale - 1) < 1e-6 else scale
    if not said.truth("do_normalize", True):
        found |= said.fact("mean", (0.0, 0.0, 0.0), "do_normalize")
        return found | said.fact("std", (1 / scale,) * 3, "do_normalize")
    for ours, theirs in (("mean", "image_mean"), ("std", "image_std")):
        if said.has(theirs):
            values = said.three(theirs, 0.0 if ours == "std" else -1e4, 1e4)
            found |= said.fact(ours, tuple(value / scale for value in values), theirs)
    return found


def _size(said: Statement, name: str) -> tuple[str, int]:
    """Which size it is, "square" or "short", and the side in pixels."""
    if not isinstance(said.values[name], Mapping):
        words = " ".join(
            str(said.values.get(key, ""))
            for key in ("image_processor_type", "feature_extractor_type")
        )
        is_short = name == "size" and any(word in words for word in _SHORT_EDGE)
        return ("short" if is_short else "square"), said.square(name)
    size = said.inside(name)
    if size.has("shortest_edge"):
        return "short", size.whole("shortest_edge", 1, 2**14)
    if not (size.has("height") and size.has("width")):
        said.refuse(name, sorted(map(str, size.values)), "height and width, or shortest_edge")
    height, width = size.whole("height", 1, 2**14), size.whole("width", 1, 2**14)
    if height != width:
        said.refuse(name, f"{height} x {width} px", "a square, which our models need")
    return "square", height


def _mlp(said: Statement) -> Facts:
    found: Facts = {}
    for name in ("use_swiglu_ffn", "use_gated_mlp"):
        if said.truth(name, False):
            if name == "use_gated_mlp" and said.text("hidden_act") != "silu":
                said.refuse("hidden_act", repr(said.text("hidden_act")), "'silu' for gated MLPs")
            return said.fact("gated", True, name)
    if said.has("hidden_act"):
        name = said.text("hidden_act")
        if name not in _NON_LINEARITIES:
            raise InputError(
                f"{said.label} has the non-linearity {name!r} (hidden_act); known are "
                f"{', '.join(_NON_LINEARITIES)}."
            )
        found |= said.fact("mlp", _NON_LINEARITIES[name], "hidden_act")
    if said.has("intermediate_size"):
        found |= said.fact("mlp_dim", said.whole("intermediate_size", 1), "intermediate_size")
    elif said.has("mlp_ratio") and said.has("hidden_size"):
        width = int(said.whole("hidden_size", 1) * said.number("mlp_ratio", 0.0, 1000.0))
        found |= said.fact("mlp_dim", width, "mlp_ratio")
    return found


def _labels(said: Statement) -> Facts:
    """The names of the classes, where they are more than LABEL_0, LABEL_1."""
    if not said.has("id2label"):
        return {}
    labels = said.inside("id2label")
    numbers = sorted(labels.values, key=lambda key: (len(str(key)), str(key)))
    if numbers != [str(i) for i in range(len(numbers))]:
        said.refuse("id2label", f"an object with the keys {numbers[:3]}", "keys '0', '1', ...")
    names = tuple(labels.text(number) for number in numbers)
    found: Facts = {"num_labels": Fact(len(names), said.where("id2label"))}
    if names and not all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        found |= said.fact("class_names", names, "id2label")
    return found
