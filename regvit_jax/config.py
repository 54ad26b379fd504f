"""What does a model look like? Its configuration, and the published sizes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from regvit_jax import strict_json
from regvit_jax.errors import InputError

LIMITS: dict[str, tuple[int | float, int | float]] = {
    "embed_dim": (1, 65_536),
    "depth": (1, 1_024),
    "num_heads": (1, 65_536),
    "patch_size": (1, 4_096),
    "image_size": (1, 65_536),
    "num_registers": (0, 65_536),
    "num_classes": (0, 10_000_000),
    "mlp_ratio": (1e-3, 1_000),
    "layer_norm_epsilon": (1e-30, 1),
    "layer_scale_init": (-1e3, 1e3),
    "register_init_std": (0, 1e3),
    "num_channels": (1, 1_024),
    "image_width": (1, 65_536),
    "head_width": (1, 65_536),
    "rope_base": (1e-3, 1e12),
    "register_rope_base": (0, 1e12),
}
"""Least and greatest value of a field; beyond lie damaged files, and hours of tracing a model."""

PosResampling = Literal["antialias", "plain", "offset"]
MlpKind = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]
NormKind = Literal["layer", "rms"]
Pooling = Literal["cls", "patches", "cls_and_patches"]
HeadKind = Literal["classifier", "projection"]
Rope = Literal["none", "centred", "scaled"]
ShiftRule = Literal["paper", "released"]


@dataclasses.dataclass(frozen=True)
class AddedRegisters:
    """Registers that were not trained: tokens of zeros to which hidden units are shifted."""

    units: tuple[tuple[int, int], ...]
    """Block and hidden unit of each."""
    number: int = 1
    """How many tokens are added, after the trained registers."""
    rule: ShiftRule = "paper"
    """What they get of the units (`regvit_jax.edits.shift_units`)."""

    def __post_init__(self) -> None:
        strict_json.check_fields(self, {"number": (1, 1_024)})
        if not self.units or len(set(self.units)) < len(self.units):
            raise InputError("units of added registers must be named, each once.")
        object.__setattr__(self, "units", tuple(sorted(self.units)))


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """The architecture of one vision transformer with registers; the default is DeiT-III Small."""

    embed_dim: int = 384
    """Width of every token."""
    depth: int = 12
    """Number of blocks."""
    num_heads: int = 6
    """Attention heads per block; must divide `embed_dim`."""
    patch_size: int = 16
    """Side of a square patch, in pixels."""
    image_size: int = 224
    """Height of the images whose patches `pos_embed` holds; other sizes are resampled."""
    num_registers: int = 0
    """Learned tokens between the CLS token and the patches; 0 is plain DeiT-III."""
    num_classes: int = 1000
    """Outputs of the head; 0 is a model without a head."""
    mlp_ratio: float = 4.0
    """Hidden width of the MLP, in units of `embed_dim`."""
    mlp: MlpKind = "gelu"
    """Non-linearity of the MLP; "swiglu" (DINOv2's giant) gates every hidden unit with another."""
    layer_scale: bool = True
    """Whether each residual branch has a learned factor per channel; DeiT and DINO have none."""
    layer_norm_epsilon: float = 1e-6
    """Added to the variance, or the mean square, in every norm."""
    drop_path_rate: float = 0.0
    """Probability that an image skips a residual branch in training, the same in every block."""
    layer_scale_init: float = 1e-4
    """Start value of LayerScale."""
    register_init_std: float = 0.02
    """Standard deviation of the registers' start values: 0.02 in the study, 1e-6 in DINOv2."""
    pos_resampling: PosResampling = "antialias"
    """How `pos_embed` is resampled to another grid (`regvit_jax.positions`)."""
    image_width: int | None = None
    """Width of these images; None: as high as wide."""
    num_channels: int = 3
    """Channels of an image."""
    class_token: bool = True
    """Whether there is a CLS token; timm's "gap" models have none."""
    registers_last: bool = False
    """Whether the registers follow the patches (ViT-5) instead of going before them."""
    pos_embed: bool = True
    """Whether a learned position embedding is added to each patch."""
    rope: Rope = "none"
    """Rule of the rotary positions of patches (`regvit_jax.rotary`)."""
    rope_base: float = 100.0
    """The slowest rotation is nearly this many times as slow as the fastest."""
    register_rope_base: float = 0.0
    """The same for registers, which then lie on a square grid of their own; 0: they do not turn."""
    patch_bias: bool = True
    """Whether the patch convolution has a bias; CLIP's has none."""
    norm_pre: bool = False
    """Whether tokens pass a norm before the first block, as CLIP's do."""
    norm: NormKind = "layer"
    """The kind of every norm; "rms" has neither mean nor bias (ViT-5)."""
    qkv_bias: bool = True
    """Whether query, key and value have biases."""
    qk_norm: bool = False
    """Whether every head's query and key pass a norm."""
    head_width: int | None = None
    """Channels of an attention head; None: `embed_dim / num_heads`."""
    pooling: Pooling = "cls"
    """What the head reads: CLS, the mean of the patches, or both side by side."""
    pooled_norm: bool = False
    """Whether the last norm comes after pooling (timm's `fc_norm`) instead of before it."""
    head: HeadKind = "classifier"
    """Whether outputs are classes, or an embedding: CLIP's projection, which has no bias."""
    added: AddedRegisters | None = None
    """Test-time registers, which are no parameters and not counted in `num_registers`."""

    def __post_init__(self) -> None:
        strict_json.check_fields(self, LIMITS)
        if self.head_width is None and self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}."
            )
        for name in ("image_size", "image_width"):
            if (size := getattr(self, name)) is not None and size % self.patch_size:
                raise InputError(
                    f"{name} {size} is not a multiple of patch_size {self.patch_size}."
                )
        self._check_parts()
        if self.mlp_dim < 1:
            raise InputError(f"mlp_ratio {self.mlp_ratio} leaves no hidden unit.")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise InputError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}.")

    def _check_parts(self) -> None:
        """Raises if parts contradict each other."""
        if not self.class_token and self.pooling != "patches":
            raise InputError(
                f"pooling is {self.pooling!r}, but a model without a CLS token (class_token) can "
                "only pool 'patches'."
            )
        if self.pooled_norm and self.pooling == "cls_and_patches":
            raise InputError("pooled_norm needs pooling 'cls' or 'patches', got 'cls_and_patches'.")
        if self.rope != "none" and self.head_dim % 4:
            raise InputError(
                f"Rotary positions turn groups of 4 channels; a head has {self.head_dim}."
            )
        self._check_added()
        side = math.isqrt(self.num_registers)
        if self.register_rope_base and (self.rope == "none" or side**2 != self.num_registers):
            raise InputError(
                "register_rope_base needs rotary positions (rope) and a square number of "
                f"registers, got {self.rope!r} and {self.num_registers}."
            )

    def _check_added(self) -> None:
        """Raises if units are shifted that do not exist."""
        for block, unit in self.added.units if self.added else ():
            if not (0 <= block < self.depth and 0 <= unit < self.mlp_dim):
                raise InputError(
                    f"added names unit {unit} of block {block}; the model has {self.depth} blocks "
                    f"of {self.mlp_dim} hidden units, both counted from 0."
                )

    @property
    def head_dim(self) -> int:
        return self.head_width or self.embed_dim // self.num_heads

    @property
    def num_pooled(self) -> int:
        """Channels that the head reads."""
        return self.embed_dim * (2 if self.pooling == "cls_and_patches" else 1)

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that `pos_embed` holds."""
        height, width, _ = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the images whose patches `pos_embed` holds."""
        return self.image_size, self.image_width or self.image_size, self.num_channels

    @classmethod
    def from_json(cls, values: Mapping[str, Any], label: str = "The model") -> "ViTConfig":
        """The configuration that `dataclasses.asdict` wrote; unknown names are refused.

        Args:
          values: Of the fields.
          label: What error messages call them.

        Raises:
          InputError: If a name is not a field of this version, or a value not what it may be.
        """
        return strict_json.build(cls, values, label)


VARIANTS: dict[str, ViTConfig] = {
    "tiny": ViTConfig(embed_dim=192, num_heads=3),
    "small": ViTConfig(embed_dim=384, num_heads=6),
    "medium": ViTConfig(embed_dim=512, num_heads=8),
    "base": ViTConfig(embed_dim=768, num_heads=12),
    "large": ViTConfig(embed_dim=1024, depth=24, num_heads=16),
    "huge": ViTConfig(embed_dim=1280, depth=32, num_heads=16, patch_size=14),
}
"""DeiT-III's six sizes. Reference: `models_v2.py` of facebookresearch/deit, the "LS" factories."""

_OF_A_SIZE = (
    *("embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "mlp", "num_channels"),
    *("class_token", "registers_last", "pos_embed", "rope", "patch_bias", "norm_pre", "norm"),
    *("qkv_bias", "qk_norm", "head_width", "pooling", "pooled_norm", "head"),
)
"""Fields that a published size fixes."""


def variant_name(config: ViTConfig) -> str:
    """The published name of a configuration's size, or "custom"."""
    for name, variant in VARIANTS.items():
        if all(getattr(config, field) == getattr(variant, field) for field in _OF_A_SIZE):
            return name
    return "custom"
