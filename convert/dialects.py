"""Which names and layouts does each family of checkpoints use for the same tensors?

One `Dialect` is one way of writing a vision transformer down. `convert.rules` turns it into the
table that imports and exports.
"""

import dataclasses
from typing import Literal

from regvit_jax.config import PosResampling


@dataclasses.dataclass(frozen=True)
class Dialect:
    """A family's names. Block names are relative to `block`, whose `{}` is the block's index."""

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
    dropped: tuple[str, ...] = ()
    """Tensors that may be there and that nothing but pre-training needs."""
    cls_token: str = "cls_token"
    pos_embed: str = "pos_embed"
    patch_embed: str = "patch_embed.proj"
    block: str = "blocks.{}"
    norm1: str = "norm1"
    qkv: tuple[str, ...] = ("attn.qkv",)
    """One fused layer, or three."""
    proj: str = "attn.proj"
    norm2: str = "norm2"
    fc1: str = "mlp.fc1"
    fc2: str = "mlp.fc2"
    norm: str = "norm"
    pos_resampling: PosResampling = "antialias"
    """The rule that the family's own code uses for other image sizes."""


Family = Literal["deit", "timm"]

DIALECTS: dict[str, Dialect] = {
    "deit": Dialect(
        title="DeiT-III (official, or the study's)",
        reg_tokens="reg_tokens",
        layer_scale=("gamma_1", "gamma_2"),
    ),
    "timm": Dialect(
        title="timm, positions without a CLS entry (deit3_*, vit_*_reg4_*)",
        reg_tokens="reg_token",
        layer_scale=("ls1.gamma", "ls2.gamma"),
    ),
}
"""Reference: `protocols.md` 1.7 and 1.8 of the specification; `models_v2.py` of the study."""
