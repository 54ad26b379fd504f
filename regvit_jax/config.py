"""What does a model look like? Its configuration, and the published sizes."""

import dataclasses
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
}
"""Least and greatest value of a field; beyond lie damaged files, and hours of tracing a model."""

PosResampling = Literal["antialias", "plain", "offset"]
MlpKind = Literal["gelu", "gelu_tanh", "swiglu"]


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
    """Side of the square images whose patches `pos_embed` holds; other sizes are resampled."""
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
    """Added to the variance in every LayerNorm."""
    drop_path_rate: float = 0.0
    """Probability that an image skips a residual branch in training, the same in every block."""
    layer_scale_init: float = 1e-4
    """Start value of LayerScale."""
    register_init_std: float = 0.02
    """Standard deviation of the registers' start values: 0.02 in the study, 1e-6 in DINOv2."""
    pos_resampling: PosResampling = "antialias"
    """How `pos_embed` is resampled to another grid (`regvit_jax.positions`)."""

    def __post_init__(self) -> None:
        strict_json.check_fields(self, LIMITS)
        if self.embed_dim % self.num_heads:
            raise InputError(
                f"embed_dim {self.embed_dim} is not divisible by num_heads {self.num_heads}."
            )
        if self.image_size % self.patch_size:
            raise InputError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}."
            )
        if self.mlp_dim < 1:
            raise InputError(f"mlp_ratio {self.mlp_ratio} leaves no hidden unit.")
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise InputError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}.")

    @property
    def head_dim(self) -> int:
        return self.embed_dim // self.num_heads

    @property
    def mlp_dim(self) -> int:
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that `pos_embed` holds."""
        side = self.image_size // self.patch_size
        return side, side

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


def variant_name(config: ViTConfig) -> str:
    """The published name of a configuration's size, or "custom"."""
    for name, variant in VARIANTS.items():
        same = ("embed_dim", "depth", "num_heads", "patch_size", "mlp_ratio", "mlp")
        if all(getattr(config, field) == getattr(variant, field) for field in same):
            return name
    return "custom"
