"""With which `config.json` does transformers build a model of ours?

Reference: `Dinov2Config`, `Dinov2WithRegistersConfig`, `DINOv3ViTConfig`, `CLIPVisionConfig` and
`ViTConfig` of transformers.
"""

from collections.abc import Sequence
from typing import Any

from regvit_jax.config import ViTConfig

HEADS = ("classifier.", "visual_projection.")
"""Where the weights of heads stand."""

FAMILIES = ("hf", "hf-dinov3", "hf-clip")
"""Families whose weights are exported as a folder."""

_ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"}


def hugging_face_config(
    config: ViTConfig, family: str, class_names: Sequence[str] = ()
) -> dict[str, Any]:
    """The values of a configuration.

    Args:
      config: Of a model that the family can hold.
      family: A name in `DIALECTS`, of transformers' ones.
      class_names: Of the outputs of a classifier; by number where nobody knows them.
    """
    shared = {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "hidden_act": _ACTIVATIONS.get(config.mlp, "silu"),
        "layer_norm_eps": config.layer_norm_epsilon,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
    }
    found = shared | _OWN[family](config)
    if config.num_classes and config.head == "classifier":
        names = class_names or [f"LABEL_{i}" for i in range(config.num_classes)]
        found["id2label"] = {str(i): name for i, name in enumerate(names)}
        found["label2id"] = {name: i for i, name in enumerate(names)}
    return found


def whole_ratio(config: ViTConfig) -> int | None:
    """The whole number from which Dinov2 finds the MLP's width; None if there is none."""
    for ratio in range(1, 65):
        width = config.embed_dim * ratio
        if config.mlp == "swiglu":  # two thirds, rounded up to a multiple of 8
            width = (int(width * 2 / 3) + 7) // 8 * 8
        if width == config.mlp_dim:
            return ratio
    return None


def prefix(config: ViTConfig, family: str) -> str:
    """What stands before the names of the network, beside which a head lies."""
    if family == "hf-clip":
        return "vision_model."
    if family == "hf-vit" and config.num_classes:
        return "vit."
    if family == "hf" and config.num_classes:
        return "dinov2_with_registers." if config.num_registers else "dinov2."
    return ""


def _dinov2(config: ViTConfig) -> dict[str, Any]:
    registers, kind = config.num_registers > 0, "Dinov2"
    if registers:
        kind = "Dinov2WithRegisters"
    head = "ForImageClassification" if config.num_classes else "Model"
    return {
        "architectures": [f"{kind}{head}"],
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "mlp_ratio": whole_ratio(config),
        "hidden_act": "gelu",
        "qkv_bias": True,
        "drop_path_rate": 0.0,
        "use_swiglu_ffn": config.mlp == "swiglu",
        **({"num_register_tokens": config.num_registers} if registers else {}),
    }


def _dinov3(config: ViTConfig) -> dict[str, Any]:
    return {
        "architectures": ["DINOv3ViTModel"],
        "model_type": "dinov3_vit",
        "intermediate_size": config.mlp_dim,
        "use_gated_mlp": config.mlp == "swiglu",
        "num_register_tokens": config.num_registers,
        "rope_theta": config.rope_base,
        "query_bias": config.qkv_bias,
        "key_bias": False,
        "value_bias": config.qkv_bias,
        "drop_path_rate": 0.0,
    }


def _clip(config: ViTConfig) -> dict[str, Any]:
    kind = "CLIPVisionModelWithProjection" if config.num_classes else "CLIPVisionModel"
    return {
        "architectures": [kind],
        "model_type": "clip_vision_model",
        "intermediate_size": config.mlp_dim,
        "projection_dim": config.num_classes or config.embed_dim,
    }


def _vit(config: ViTConfig) -> dict[str, Any]:
    return {"model_type": "vit", "intermediate_size": config.mlp_dim}


_OWN = {"hf": _dinov2, "hf-dinov3": _dinov3, "hf-clip": _clip, "hf-vit": _vit}
