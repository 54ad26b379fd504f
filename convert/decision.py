"""What do tensors, files and the user say together, and what is assumed where none says it?"""

import math
from typing import Any, NamedTuple

from regvit_jax.config import ViTConfig
from regvit_jax.convert.choices import Choices
from regvit_jax.convert.facts import Fact, Facts
from regvit_jax.convert.infer import NUM_HEADS
from regvit_jax.convert.recognise import Match, recognise
from regvit_jax.convert.weights import NPZ, Weights
from regvit_jax.errors import InputError
from regvit_jax.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

_USUAL = "the usual of such models"

_LIKE_TIPS = ("dinov2", "timm-dinov2")
"""Families whose names TIPS has in files of NumPy's, or on a prefix of its own."""
_TIPS_PREFIX = "vision_encoder."

_POOLINGS = {"token": "cls", "": "cls", "avg": "patches"}
"""By timm's names."""

_GELUS = {"gelu": "exact GELU", "gelu_tanh": "tanh GELU", "quick_gelu": "QuickGELU"}

_SIZES = {
    "embed_dim": "tokens of width",
    "depth": "blocks:",
    "patch_size": "a patch size of",
    "image_size": "an image size of",
    "num_registers": "registers:",
    "num_channels": "channels of an image:",
    "num_classes": "classes:",
    "num_labels": "classes:",
    "mlp_dim": "MLPs of width",
}
"""What both a file and the tensors tell, in words."""


_UNKNOWN_SIZES = {
    "border": "a border around the image",
    "none": "images that are not resized",
    "squash": "both sides to be resized and then a crop",
}
"""What preprocessing may ask for and cannot have, in words."""


class Assumed(NamedTuple):
    """Something that no file says."""

    what: str
    value: Any
    option: str
    """With which to say otherwise; empty if nothing else can be computed."""
    text: str
    """What and value in a few words."""
    why: str
    """Where the value comes from."""


class Decision(NamedTuple):
    """What a checkpoint directory will hold."""

    match: Match
    preprocess: Preprocess
    class_names: tuple[str, ...]
    assumed: list[Assumed]
    said: dict[str, str]
    """The facts that were used, with the place that says them."""
    left_out: list[str]
    """What the file says of something else, in words."""


def decide(weights: Weights, label: str, family: str | None, choices: Choices) -> Decision:
    """The model, its pixels and its class names.

    Args:
      weights: Of the file or folder.
      label: What to call it in an error.
      family: A name in `DIALECTS`; None takes the one that fits.
      choices: What the user says.

    Raises:
      InputError: If the tensors are no model of a family, a file contradicts them, or says what
        cannot be done here.
    """
    grid = {"grid": choices.grid} if choices.grid else {}
    plain = recognise(weights.tensors, family, grid)
    is_tips = weights.format == NPZ or weights.prefix == _TIPS_PREFIX
    if family is None and is_tips and plain.family in _LIKE_TIPS:
        plain = recognise(weights.tensors, "tips", grid)
    plain.check(label, heads=False)
    known, heads, assumed = _network(weights, plain, choices, label)
    match = recognise(weights.tensors, plain.family, grid | known)
    match.check(label)
    _check_sizes(weights.facts, match, choices, label)
    preprocess, more = _pixels(weights.facts, match, choices)
    has_head = match.config.num_classes > 0
    names = weights.facts.get("class_names") if has_head else None
    reads_cls = match.config.pooling == "cls" and has_head
    if match.family in ("timm", "deit1") and reads_cls and "pooling" not in weights.facts:
        text = "a head that reads CLS"
        assumed.append(Assumed("input of the head", "CLS", "", text, _USUAL))
    if _may_norm_after_layers(match) and "architecture_heads" not in weights.facts:
        why = "timm's rpn models, whose norms come after, have tensors of the same names"
        text = "norms before attention and MLP"
        assumed.append(Assumed("place of the norms", "before", "", text, why))
    if family is None and match.family == "dino" and not match.dropped:
        why = "MAE's and augreg's tensors have the same names"
        assumed.append(Assumed("family", "dino", "--family", "a headless ViT is DINO's", why))
    left_out = []
    used = _used(weights.facts, choices)
    if has_head and (hint := weights.facts.get("class_names_of_training")):
        if len(hint.value) == match.config.num_classes:
            names = names or hint
        else:
            left_out = [f"{hint.where} ({len(hint.value)} names for other outputs)"]
            del used["class_names_of_training"]
    class_names = names.value if names else ()
    return Decision(match, preprocess, class_names, heads + more + assumed, used, left_out)


def _may_norm_after_layers(match: Match) -> bool:
    """Whether the tensors are also those of a timm model with res-post-norm blocks."""
    config = match.config
    is_timm = match.family in ("timm", "timm-gap")
    return is_timm and not config.class_token and not config.qkv_bias


def _used(facts: Facts, choices: Choices) -> dict[str, str]:
    """Where each fact is written that no choice of the user's replaces."""
    replaced = {name for choice in choices.said for name in _REPLACES.get(choice, (choice,))}
    return {name: fact.where for name, fact in facts.items() if name not in replaced}


_REPLACES = {
    "num_heads": ("num_heads", "architecture_heads"),
    "crop": ("crop", "short_side", "resize", "crop_start"),
    "short_side": ("crop", "short_side", "resize", "crop_start"),
    "image_size": ("image_size", "eval_px"),
    "epsilon": ("layer_norm_epsilon",),
    "activation": ("mlp",),
}
"""The facts that an option of the user's stands for, where they have other names."""


def tell(assumed: list[Assumed]) -> str:
    """One line that says what is assumed; empty if nothing is."""
    if not assumed:
        return ""
    whys = list(dict.fromkeys(item.why for item in assumed))
    options = list(dict.fromkeys(item.option for item in assumed if item.option))
    how = f"; set with {', '.join(options)}" if options else ""
    texts = ", ".join(item.text for item in assumed)
    return f"Assumed: {texts} (nothing in the file says them: {'; '.join(whys)}{how})."


def _network(
    weights: Weights, match: Match, choices: Choices, label: str
) -> tuple[dict[str, Any], list[Assumed], list[Assumed]]:
    """Fields that no tensor tells; of these, the heads if they are assumed, and what else is."""
    known = dict(weights.known) | _positions_and_pooling(weights.facts, match, label)
    told: list[Assumed] = []
    assumed: list[Assumed] = []
    why = match.dialect.published
    heads, guess = _heads(weights, match, choices, label)
    if heads:
        known["num_heads"] = heads
    if guess:
        text = f"{heads} heads"
        told.append(Assumed("attention heads", heads, "--num-heads", text, guess))
    if choices.activation:
        known["mlp"] = choices.activation
    elif "mlp" not in known and match.config.mlp != "swiglu":
        text = _GELUS[match.config.mlp]
        assumed.append(Assumed("activation", match.config.mlp, "--activation", text, why))
    if choices.epsilon:
        known["layer_norm_epsilon"] = choices.epsilon
    elif "layer_norm_epsilon" not in known:
        epsilon = match.config.layer_norm_epsilon
        text = f"LayerNorm epsilon {epsilon:g}".replace("e-0", "e-")
        assumed.append(Assumed("LayerNorm epsilon", epsilon, "--epsilon", text, why))
    return known, told, assumed


def _heads(weights: Weights, match: Match, choices: Choices, label: str) -> tuple[int, str]:
    """Attention heads, and why where they are assumed; 0 if not even that can be done."""
    width, facts = match.config.embed_dim, weights.facts
    if choices.num_heads:
        return choices.num_heads, ""
    if fact := facts.get("num_heads"):
        if width % fact.value:
            raise InputError(
                f"{fact.where} says {fact.value} heads, but the tensors of {label} are tokens of "
                f"width {width}, which is no multiple. Say otherwise with --num-heads."
            )
        return fact.value, ""
    if match.dialect.layout == "flax":
        return match.config.num_heads, ""
    if (fact := facts.get("architecture_heads")) and width in fact.value:
        return fact.value[width], ""
    if "model_type" in weights.about and width % 12 == 0:
        return 12, "the default of transformers"
    if width == 384 and "base_encoder." in f".{weights.prefix}":
        return 12, "as published for MoCo v3"
    if match.heads_known and match.dialect.qk_norm and match.config.qk_norm:
        return match.config.num_heads, ""  # their norms are as wide as a head
    heads = match.dialect.heads.get(width) or NUM_HEADS.get(width, 0)
    return heads, "heads as in published models of this width"


def _check_sizes(facts: Facts, match: Match, choices: Choices, label: str) -> None:
    """Raises if a file says another size than the tensors have."""
    config = match.config
    found = {name: getattr(config, name, None) for name in _SIZES}
    found |= {"mlp_dim": config.mlp_dim, "num_labels": config.num_classes}
    if config.mlp == "swiglu":
        del found["mlp_dim"]
    is_silent = not config.num_classes and match.family.startswith("hf")
    if match.dialect.head is None or is_silent or config.head == "projection":
        del found["num_classes"], found["num_labels"]
    if choices.image_size or not config.pos_embed or config.image_width:
        del found["image_size"]
    for name, value in found.items():
        fact = facts.get(name)
        if fact is not None and fact.value != value and not _is_resized(name, facts):
            raise InputError(
                f"{fact.where} says {_SIZES[name]} {fact.value}, but the tensors of {label} have "
                f"{_SIZES[name]} {value}. They are of different models, or the file was edited."
                + (" Say otherwise with --image-size." if name == "image_size" else "")
            )
    if (fact := facts.get("class_names")) and 0 < config.num_classes != len(fact.value):
        raise InputError(
            f"{fact.where} names {len(fact.value)} classes, but the head in {label} has "
            f"{config.num_classes} outputs."
        )
    _check_parts(facts, config, label)


def _is_resized(name: str, facts: Facts) -> bool:
    """Whether the image size is only that of evaluation, to which positions are resampled."""
    return name == "image_size" and facts.get("eval_px") is facts["image_size"]


def _check_parts(facts: Facts, config: ViTConfig, label: str) -> None:
    """Raises if a file says that a part is there, or works otherwise, that the tensors deny."""
    bias, gated = (facts.get(name) for name in ("qkv_bias", "gated"))
    if bias is not None and not bias.value and config.qkv_bias:
        raise InputError(
            f"{bias.where} is false, but the tensors of {label} have biases of query, key and "
            "value. They are of different models, or the file was edited."
        )
    if gated is not None and config.mlp != "swiglu":
        raise InputError(
            f"{gated.where} says that the MLPs are gated (SwiGLU), but those in {label} are not. "
            "They are of different models, the file was edited, or it is a non-linearity that is "
            "not known here."
        )


def _positions_and_pooling(facts: Facts, match: Match, label: str) -> dict[str, Any]:
    """Fields that files tell of positions that are no tensor, and of what the head reads."""
    config, known = match.config, {}
    if not config.pos_embed and "grid" not in match.dialect.fixed and "image_size" in facts:
        known["image_size"] = facts["image_size"].value
    if config.rope != "none" and "rope_base" in facts:
        known["rope_base"] = facts["rope_base"].value
    pooling = facts.get("pooling")
    if pooling is None or not match.family.startswith(("timm", "deit1")):
        return known
    if pooling.value not in _POOLINGS:
        if not config.num_classes:
            return known
        raise InputError(
            f"{pooling.where} is {pooling.value!r}: the head in {label} reads something else than "
            "CLS or the mean of the patches, so its logits would differ."
        )
    if _POOLINGS[pooling.value] != "cls" or config.class_token:
        known["pooling"] = _POOLINGS[pooling.value]
    return known


def _pixels(facts: Facts, match: Match, choices: Choices) -> tuple[Preprocess, list[Assumed]]:
    """What evaluation does to an image, and what of it is assumed."""
    assumed: list[Assumed] = []
    why = match.dialect.published
    dialect = match.dialect
    fields: dict[str, Any] = {}
    usuals = dialect.mean_and_std or (IMAGENET_MEAN, IMAGENET_STD)
    for name, usual in zip(("mean", "std"), usuals, strict=True):
        said = choices.channels(name) or _value(facts, name)
        fields[name] = said or usual
    missing = [n for n in ("mean", "std") if not (choices.channels(n) or n in facts)]
    if missing:
        words = " and ".join(missing)
        text = _tell_channels(words, [fields[name] for name in missing])
        option = ", ".join(f"--{name}" for name in missing)
        assumed.append(Assumed(words, [list(fields[n]) for n in missing], option, text, why))
    size, is_assumed = _size(facts, match, choices)
    fields |= size
    if is_assumed:
        short, side = fields["short_side"], fields["height"]
        text = f"crop {side} of {short} px"
        if fields["resize"] == "squash":
            text = f"both sides resized to {side} px"
        options = "--crop, --image-size"
        assumed.append(Assumed("crop", [side, short], options, text, why))
    if said_filter := choices.interpolation or _interpolation(facts):
        fields["interpolation"] = said_filter
    else:
        name = fields["interpolation"] = dialect.interpolation
        text = f"{name} resizing"
        assumed.append(Assumed("interpolation", name, "--interpolation", text, why))
    return Preprocess(**fields), assumed


def _size(facts: Facts, match: Match, choices: Choices) -> tuple[dict[str, Any], bool]:
    """Sides, crop and way of resizing, and whether the crop is assumed."""
    config, dialect = match.config, match.dialect
    said = _value(facts, "eval_px")
    side = (
        choices.image_size
        or said
        or (config.image_size if "image_size" in facts and "crop" in facts else dialect.eval_px)
        or config.image_size
    )
    if side % config.patch_size:
        where = "--image-size" if choices.image_size else facts["eval_px"].where
        raise InputError(
            f"{where} says {side} px, which is no multiple of the patch size {config.patch_size}."
        )
    if match.family == "hf-vit" and not choices.image_size and side != config.image_size:
        raise InputError(
            f"{facts['eval_px'].where} says {side} px, but the positions are those of "
            f"{config.image_size} px. Say otherwise with --image-size."
        )
    fields = {"height": side, "width": side, "resize": "crop", "short_side": side}
    if choices.short_side or choices.crop:
        return fields | {"short_side": choices.short_side or _short(side, choices.crop)}, False
    crop, resize = _value(facts, "crop"), facts.get("resize")
    if resize is not None and (
        resize.value in ("border", "none") or (resize.value == "squash" and crop not in (None, 1.0))
    ):
        raise InputError(
            f"{resize.where} asks for {_UNKNOWN_SIZES[resize.value]}, which is not known here. "
            "Crop the centre instead with --crop, for example --crop 1."
        )
    if resize is not None and resize.value == "squash":
        return fields | {"resize": "squash"}, False
    if short := _value(facts, "short_side"):
        short = max(side, round(short * side / (said or side)))
        return fields | {"short_side": short, "crop_start": "cut"}, False
    if crop:
        return fields | {"short_side": _short(side, crop)}, False
    if dialect.is_squashed:
        return fields | {"resize": "squash"}, True
    return fields | {"short_side": _short(side, dialect.crop_fraction)}, True


def _tell_channels(words: str, values: list[tuple[float, float, float]]) -> str:
    """Mean and standard deviation in a few words."""
    if all(value in (IMAGENET_MEAN, IMAGENET_STD) for value in values):
        return f"ImageNet {words}"
    if all(len(set(value)) == 1 for value in values):
        numbers = dict.fromkeys(f"{value[0]:g}" for value in values)
        return f"{words} {' and '.join(numbers)}"
    texts = [", ".join(f"{number:.3g}" for number in value) for value in values]
    return f"{words} {' and '.join(f'({text})' for text in texts)}"


def _short(side: int, crop: float | None) -> int:
    """The short side of which a crop is a part, cut to whole pixels as timm does."""
    return math.floor(side / (crop or 1))


def _interpolation(facts: Facts) -> str | None:
    fact = facts.get("interpolation")
    if fact is not None and fact.value not in ("bicubic", "bilinear"):
        raise InputError(
            f"{fact.where} is {fact.value!r}; known here are bicubic and bilinear. Say which "
            "to use instead with --interpolation."
        )
    return fact.value if fact else None


def _value(facts: Facts, name: str) -> Any:
    fact: Fact | None = facts.get(name)
    return fact.value if fact else None
