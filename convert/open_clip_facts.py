"""What does the `open_clip_config.json` of an OpenCLIP folder say?

Reference: `model_configs/` and `image_transform` of mlfoundations/open_clip.
"""

from collections.abc import Mapping
from typing import Any

from regvit_jax.convert.facts import Facts, Statement

FILE = "open_clip_config.json"
_RESIZING = {"shortest": "crop", "squash": "squash"}


def folder_facts(config: Mapping[str, Any], label: str) -> Facts:
    """Sizes and non-linearity of the image tower, and its pixels.

    Raises:
      InputError: If a value cannot be; names the field.
    """
    top = Statement(config, label)
    found = _tower(top.inside("model_cfg")) if top.has("model_cfg") else {}
    if top.has("preprocess_cfg"):
        found |= _pixels(top.inside("preprocess_cfg"))
    return found


def _tower(model: Statement) -> Facts:
    found: Facts = {}
    if not model.has("vision_cfg"):
        return found
    said = model.inside("vision_cfg")
    if said.has("timm_model_name"):
        return found
    quick = model.truth("quick_gelu", False)
    found |= model.fact("mlp", "quick_gelu" if quick else "gelu", "quick_gelu")
    for theirs, ours in {"width": "embed_dim", "layers": "depth"}.items():
        if said.has(theirs):
            found |= said.fact(ours, said.whole(theirs, 1), theirs)
    for name in ("image_size", "patch_size"):
        if said.has(name):
            found |= said.fact(name, said.square(name), name)
    if "embed_dim" in found:
        width = said.whole("head_width", 1) if said.has("head_width") else 64
        heads = found["embed_dim"].value // width
        found |= said.fact("num_heads", heads, "head_width" if said.has("head_width") else "width")
    return found


def _pixels(said: Statement) -> Facts:
    found: Facts = {}
    for name in ("mean", "std"):
        if said.has(name):
            value = said.three(name, 0.0 if name == "std" else -1e3, 1e3)
            found |= said.fact(name, value, name)
    if said.has("interpolation"):
        found |= said.fact("interpolation", said.text("interpolation"), "interpolation")
    mode = said.text("resize_mode") if said.has("resize_mode") else "shortest"
    if mode not in _RESIZING:
        said.refuse("resize_mode", repr(mode), "'shortest' or 'squash'")
    found |= said.fact("resize", _RESIZING[mode], "resize_mode")
    return found | said.fact("crop", 1.0, "resize_mode")
