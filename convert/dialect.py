"""How may a family of checkpoints write a vision transformer down?

One `Dialect` is one way: names, layouts, and what the family fixes. `regvit_jax.convert.dialects`
has all of them, `regvit_jax.convert.rules` turns one into the table that imports and exports.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from regvit_jax.config import MlpKind, Pooling, PosResampling, ViTConfig

Part = Literal[
    "head",
    "layer_scale",
    "cls_token",
    "pos_embed",
    "patch_bias",
    "qkv_bias",
    "qk_norm",
    "norm_pre",
    "fc_norm",
]
"""What some files of a family have and others do not."""


@dataclasses.dataclass(frozen=True)
class Dialect:
    """A family's names. Those inside a block follow `block`, whose `{}` is the block's index.

    A name that ends in "_" goes on with what a dot separates elsewhere: "in_proj_weight".
    """

    title: str
    """What to call the family when speaking to a person."""
    reg_tokens: str | None = None
    """None: the family has no registers."""
    layer_scale: tuple[str, str] | None = None
    """Names for attention and for the MLP; None: the family has no LayerScale."""
    class_slot: bool = False
    """Whether `pos_embed` starts with an entry for the CLS token, to be added to `cls_token`."""
    register_slots: bool = False
    """Whether it has entries for the registers too, to be added to `reg_tokens`."""
    head: str | None = "head"
    """None: the family's files have no classifier."""
    projection: str | None = None
    """In place of a head, a matrix (d, o) without bias: CLIP's."""
    may_lack: tuple[Part, ...] = ()
    """Parts that some files of the family have and others do not."""
    dropped: tuple[str, ...] = ()
    """Tensors that may be there, and that are left out: nothing in our model computes with them.
    `*` stands for any characters."""
    mask_token: str | None = None
    """The one of these that the family's own code insists on, exported as zeros."""
    mask_axes: int = 2
    """Axes of the mask token: 2 is (1, d), 3 is (1, 1, d)."""
    cls_token: str | None = "cls_token"
    pos_embed: str | None = "pos_embed"
    flat_tokens: bool = False
    """Whether CLS is (d) and positions (n, d), without an axis of the batch."""
    has_grid: bool = False
    """Whether positions are (rows, columns, d)."""
    patch_embed: str = "patch_embed.proj"
    patch_bias: bool = True
    norm_pre: str | None = None
    block: str = "blocks.{}"
    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    """One fused layer, or three."""
    qkv_bias: tuple[str, ...] | None = ()
    """Biases that have names of their own, "" for one that is always zero; (): those of the layers;
    None: the family has none."""
    key_mask: str | None = None
    """Name of the zeros and ones with which the fused bias is multiplied: zero for keys."""
    qk_norm: tuple[str, str] | None = None
    """Names of the norms of query and key."""
    proj: str = "attn.proj"
    norm2: str = "norm2"
    mlp_layers: tuple[str, str] = ("mlp.fc1", "mlp.fc2")
    gated_layers: tuple[str, ...] | None = None
    """The same for SwiGLU, the gates packed before the units or a layer of their own before them;
    None: the family has none."""
    norm: str = "norm"
    fc_norm: str | None = None
    """In place of `norm`, a norm of the mean of the patches."""
    layout: Literal["torch", "flax"] = "torch"
    """"flax": kernels are (in, out), query, key and value have an axis of heads."""
    non_linearity: MlpKind = "gelu"
    """Non-linearity of MLPs that are not gated."""
    layer_norm_epsilon: float = 1e-6
    pos_resampling: PosResampling = "antialias"
    """For other image sizes, of models without registers."""
    reg_pos_resampling: PosResampling = "antialias"
    """The same, of models with registers."""
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Fields of the configuration that the family fixes and no tensor tells; "grid": of the patches
    that rotary positions were learned for."""
    heads: Mapping[int, int] = dataclasses.field(default_factory=dict)
    """Attention heads by width, where the family has others than most."""
    spellings: tuple[Mapping[str, Any], ...] = ()
    """Fields that some files of the family have otherwise: other names for the same."""
    crop_fraction: float = 1.0
    """In evaluation, the side of the centre crop as a part of the short side."""
    eval_px: int | None = None
    """Side of that crop; None: that of the images whose patches `pos_embed` holds."""
    is_squashed: bool = False
    """Whether both sides are resized to it instead."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean_and_std: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Mean and standard deviation of the training pixels; None: ImageNet's."""
    published: str = "the usual of such models"
    """Where pixels, epsilon and non-linearity come from where no file says them."""

    @property
    def layer_parts(self) -> tuple[str, str]:
        """What the matrix of a dense layer is called, and the factors of a norm."""
        return ("weight", "weight") if self.layout == "torch" else ("kernel", "scale")

    def tensor(self, name: str, part: str) -> str:
        """The full name of a part of a layer."""
        return f"{name}{part}" if name.endswith("_") else f"{name}.{part}"

    def matrix(self, name: str) -> str:
        """The full name of a layer's matrix."""
        return self.tensor(name, self.layer_parts[0])

    def spelt(self) -> Iterator["Dialect"]:
        """The dialect in each of its spellings."""
        yield self
        for spelling in self.spellings:
            yield dataclasses.replace(self, **spelling)

    @functools.cached_property
    def landmarks(self) -> tuple[str, ...]:
        """Names of tensors by which the family is known: those of tokens and of the first block."""
        layers = (*self.qkv, self.proj, *self.mlp_layers, *(self.gated_layers or ()))
        norms = (self.norm1, self.norm2)
        inside = [self.matrix(name) for name in layers]
        inside += [self.tensor(name, self.layer_parts[1]) for name in norms]
        inside += [*(self.layer_scale or ()), *filter(None, self.qkv_bias or ())]
        first = self.block.format(0)
        outside = (self.cls_token, self.reg_tokens, self.pos_embed, self.matrix(self.patch_embed))
        return (*(f"{first}.{name}" for name in inside), *filter(None, outside))

    def resampling(self, num_registers: int) -> PosResampling:
        """The rule that the family's own code uses for other image sizes."""
        return self.reg_pos_resampling if num_registers else self.pos_resampling

    def is_dropped(self, name: str) -> bool:
        """Whether a tensor is one of those that are left out."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.dropped)

    @property
    def has(self) -> dict[Part, bool]:
        """The parts that it has names for."""
        return {
            "head": bool(self.head or self.projection),
            "layer_scale": bool(self.layer_scale),
            "cls_token": bool(self.cls_token),
            "pos_embed": bool(self.pos_embed),
            "patch_bias": self.patch_bias,
            "qkv_bias": self.qkv_bias is not None,
            "qk_norm": bool(self.qk_norm),
            "norm_pre": bool(self.norm_pre),
            "fc_norm": bool(self.fc_norm),
        }

    def cannot_hold(self, config: ViTConfig) -> list[str]:
        """What of a model the family has no place for; empty if it can be written."""
        reasons = {
            "registers": config.num_registers > 0 and not self.reg_tokens,
            "test-time registers": config.added is not None,
            "SwiGLU": config.mlp == "swiglu" and not self.gated_layers,
            f"the {config.mlp} MLP": config.mlp not in ("swiglu", *self._non_linearities),
            f"the LayerNorm epsilon {config.layer_norm_epsilon}": config.layer_norm_epsilon
            != self.layer_norm_epsilon,
        }
        used = parts_of(config)
        for part, is_there in self.has.items():
            name = _SAID[part]
            reasons[name] = used[part] and not is_there
            reasons[f"models without {name}"] = (
                not used[part] and is_there and part not in self.may_lack
            )
        for field, usual in _UNTOLD.items():
            value = getattr(config, field)
            if field == "head" and not config.num_classes:
                continue
            reasons[f"{field} {value}"] = value != self.fixed.get(field, usual)
        if config.num_classes and self.has["head"] and not config.pooled_norm:
            pooling = self.pooling(config.class_token, config.num_classes)
            reasons[f"a head that reads {_READ[config.pooling]}"] = config.pooling != pooling
        return [reason for reason, holds in reasons.items() if holds]

    def pooling(self, class_token: bool, num_classes: int) -> Pooling:
        """What the head of a model of the family reads, whose norm comes before pooling."""
        if not class_token:
            return "patches"
        return self.fixed.get("pooling", "cls") if num_classes else "cls"

    @property
    def _non_linearities(self) -> tuple[str, ...]:
        return ("gelu", "quick_gelu") if self.projection else (self.non_linearity,)


_SAID: dict[Part, str] = {
    "head": "a head",
    "layer_scale": "LayerScale",
    "cls_token": "a CLS token",
    "pos_embed": "learned positions",
    "patch_bias": "a bias of the patches",
    "qkv_bias": "biases of query, key and value",
    "qk_norm": "norms of query and key",
    "norm_pre": "a norm before the blocks",
    "fc_norm": "a norm after pooling",
}

_READ: dict[Pooling, str] = {
    "cls": "CLS",
    "patches": "the mean of the patches",
    "cls_and_patches": "CLS and the mean of the patches",
}

_UNTOLD: dict[str, Any] = {
    "rope": "none",
    "rope_base": 100.0,
    "register_rope_base": 0.0,
    "registers_last": False,
    "norm": "layer",
    "head": "classifier",
}
"""Fields that no tensor tells, with their usual values."""


def parts_of(config: ViTConfig) -> dict[Part, bool]:
    """Which parts a model has."""
    return {
        "head": config.num_classes > 0,
        "layer_scale": config.layer_scale,
        "cls_token": config.class_token,
        "pos_embed": config.pos_embed,
        "patch_bias": config.patch_bias,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "norm_pre": config.norm_pre,
        "fc_norm": config.pooled_norm,
    }
