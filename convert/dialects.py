"""Which names and layouts does each family of checkpoints use for the same tensors?

One `Dialect` is one way of writing a vision transformer down. `regvit_jax.convert.rules` turns it
into the table that imports and exports.
"""

import dataclasses
from typing import Literal

from regvit_jax.config import MlpKind, PosResampling, ViTConfig


@dataclasses.dataclass(frozen=True)
class Dialect:
    """A family's names. Those inside a block follow `block`, whose `{}` is the block's index."""

    title: str
    """What to call the family when speaking to a person."""
    reg_tokens: str | None = None
    """None: the family has no registers."""
    layer_scale: tuple[str, str] | None = None
    """Of attention and MLP; None: the family has no LayerScale."""
    class_slot: bool = False
    """Whether `pos_embed` starts with an entry for the CLS token, to be added to `cls_token`."""
    head: str | None = "head"
    """None: the family's files have no classifier."""
    may_lack: tuple[Literal["head", "layer_scale"], ...] = ()
    """Parts that some files of the family have and others do not."""
    dropped: tuple[str, ...] = ()
    """Tensors that may be there, and that are left out: nothing in our model computes with them."""
    mask_token: str | None = None
    """Of these, one that the family's own code insists on: (1, d), exported as zeros."""
    cls_token: str = "cls_token"
    pos_embed: str = "pos_embed"
    patch_embed: str = "patch_embed.proj"
    block: str = "blocks.{}"
    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    """One fused layer, or three."""
    proj: str = "attn.proj"
    norm2: str = "norm2"
    mlp_layers: tuple[str, str] = ("mlp.fc1", "mlp.fc2")
    gated_layers: tuple[str, str] | None = None
    """The same for SwiGLU; None: the family has none."""
    norm: str = "norm"
    layout: Literal["torch", "flax"] = "torch"
    """"flax": kernels are (in, out), query, key and value have an axis of heads."""
    non_linearity: MlpKind = "gelu"
    """Of MLPs that are not gated."""
    layer_norm_epsilon: float = 1e-6
    pos_resampling: PosResampling = "antialias"
    """For other image sizes, of models without registers."""
    reg_pos_resampling: PosResampling = "antialias"
    """The same, of models with registers."""
    crop_fraction: float = 1.0
    """In evaluation, the side of the centre crop as a part of the short side."""
    eval_px: int | None = None
    """Side of that crop; None: that of the images whose patches `pos_embed` holds."""

    @property
    def layer_parts(self) -> tuple[str, str]:
        """What the matrix of a dense layer is called, and the factors of a LayerNorm."""
        return ("weight", "weight") if self.layout == "torch" else ("kernel", "scale")

    def resampling(self, num_registers: int) -> PosResampling:
        """The rule that the family's own code uses for other image sizes."""
        return self.reg_pos_resampling if num_registers else self.pos_resampling

    def cannot_hold(self, config: ViTConfig) -> list[str]:
        """What of a model the family has no place for; empty if it can be written."""
        reasons = {
            "registers": config.num_registers > 0 and not self.reg_tokens,
            "a head": config.num_classes > 0 and not self.head,
            "LayerScale": config.layer_scale and not self.layer_scale,
            "SwiGLU": config.mlp == "swiglu" and not self.gated_layers,
            f"the {config.mlp} MLP": config.mlp not in ("swiglu", self.non_linearity),
            f"the LayerNorm epsilon {config.layer_norm_epsilon}": config.layer_norm_epsilon
            != self.layer_norm_epsilon,
            "models without a head": not config.num_classes and not self._lacks("head", self.head),
            "models without LayerScale": not config.layer_scale
            and not self._lacks("layer_scale", self.layer_scale),
        }
        return [reason for reason, holds in reasons.items() if holds]

    def _lacks(self, part: str, names: object) -> bool:
        return names is None or part in self.may_lack


_HUGGING_FACE = Dialect(
    title="Hugging Face",
    class_slot=True,
    cls_token="embeddings.cls_token",
    pos_embed="embeddings.position_embeddings",
    patch_embed="embeddings.patch_embeddings.projection",
    block="encoder.layer.{}",
    qkv=(
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
    ),
    proj="attention.output.dense",
    norm="layernorm",
    pos_resampling="plain",
)

_MMPRETRAIN = Dialect(
    title="MMPretrain",
    head="head.layers.head",
    may_lack=("head",),
    patch_embed="patch_embed.projection",
    block="layers.{}",
    norm1="ln1",
    norm2="ln2",
    mlp_layers=("ffn.layers.0.0", "ffn.layers.1"),
    norm="ln1",
)

DIALECTS: dict[str, Dialect] = {
    "deit": Dialect(
        title="DeiT-III (official, or the study's)",
        reg_tokens="reg_tokens",
        layer_scale=("gamma_1", "gamma_2"),
    ),
    "timm": Dialect(
        title="timm, positions of patches only (deit3_*, vit_*_reg4_dinov2)",
        reg_tokens="reg_token",
        layer_scale=("ls1.gamma", "ls2.gamma"),
        may_lack=("head", "layer_scale"),
        gated_layers=("mlp.fc1", "mlp.fc2"),
    ),
    "timm-dinov2": Dialect(
        title="timm, positions of CLS and patches, LayerScale (vit_*_dinov2)",
        layer_scale=("ls1.gamma", "ls2.gamma"),
        class_slot=True,
        may_lack=("head",),
        gated_layers=("mlp.fc1", "mlp.fc2"),
    ),
    "dinov2": Dialect(
        title="DINOv2 (official)",
        reg_tokens="register_tokens",
        layer_scale=("ls1.gamma", "ls2.gamma"),
        class_slot=True,
        head=None,
        dropped=("mask_token",),
        mask_token="mask_token",
        gated_layers=("mlp.w12", "mlp.w3"),
        pos_resampling="offset",
        crop_fraction=0.875,
        eval_px=224,
    ),
    "deit1": Dialect(title="DeiT, or a plain ViT of timm", class_slot=True, crop_fraction=0.875),
    "dino": Dialect(
        title="DINO",
        class_slot=True,
        head=None,
        pos_resampling="offset",
        crop_fraction=0.875,
        eval_px=224,
    ),
    "hf": dataclasses.replace(
        _HUGGING_FACE,
        title="Hugging Face Dinov2, Dinov2WithRegisters",
        reg_tokens="embeddings.register_tokens",
        layer_scale=("layer_scale1.lambda1", "layer_scale2.lambda1"),
        head=None,
        # The classifier reads CLS and the mean of the patches, ours reads CLS.
        dropped=("embeddings.mask_token", "classifier.weight", "classifier.bias"),
        mask_token="embeddings.mask_token",
        gated_layers=("mlp.weights_in", "mlp.weights_out"),
        crop_fraction=0.875,
        eval_px=224,
    ),
    "hf-vit": dataclasses.replace(
        _HUGGING_FACE,
        title="Hugging Face ViT",
        head="classifier",
        may_lack=("head",),
        dropped=("pooler.dense.weight", "pooler.dense.bias"),
        norm1="layernorm_before",
        norm2="layernorm_after",
        mlp_layers=("intermediate.dense", "output.dense"),
        layer_norm_epsilon=1e-12,
    ),
    "mmpretrain": dataclasses.replace(
        _MMPRETRAIN, title="MMPretrain (VisionTransformer)", class_slot=True
    ),
    "mmpretrain-deit3": dataclasses.replace(
        _MMPRETRAIN,
        title="MMPretrain (DeiT3)",
        layer_scale=("attn.gamma1.weight", "ffn.gamma2.weight"),
    ),
    "deit3-jax": Dialect(
        title="deit3-jax",
        layer_scale=("scale1", "scale2"),
        may_lack=("head", "layer_scale"),
        cls_token="embed.cls_token",
        pos_embed="embed.wpe",
        patch_embed="embed.wte",
        block="layer_{}",
        qkv=("attn.wq", "attn.wk", "attn.wv"),
        proj="attn.wo",
        mlp_layers=("ff.w1", "ff.w2"),
        layout="flax",
        non_linearity="gelu_tanh",
    ),
}
"""By the name of the family. Where two fit equally well, the first is taken.

Reference: `models_v2.py` of facebookresearch/deit and of the study; `vision_transformer.py` of
timm, facebookresearch/dinov2 and facebookresearch/dino; transformers' `modeling_dinov2.py`,
`modeling_dinov2_with_registers.py` and `modeling_vit.py`; `vision_transformer.py` and `deit3.py`
of open-mmlab/mmpretrain; `modeling.py` of affjljoo3581/deit3-jax.
"""

Family = Literal[
    "deit",
    "timm",
    "timm-dinov2",
    "dinov2",
    "deit1",
    "dino",
    "hf",
    "hf-vit",
    "mmpretrain",
    "mmpretrain-deit3",
    "deit3-jax",
]
ExportFamily = Literal["deit", "timm", "dinov2", "hf"]
FileFormat = Literal["pth", "safetensors"]
