"""What does the family's own PyTorch code compute from a file of weights?

The only file here that imports torch, and only inside its functions: nothing else needs it.
"""

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError

Reference = Callable[[Float[np.ndarray, "b h w 3"]], dict[str, np.ndarray]]
"""From normalised images to tensors by the names that `verification` gives them."""

TIMM_FAMILIES = ("deit", "timm", "timm-dinov2", "dinov2", "deit1", "dino")
HUGGING_FACE_FAMILIES = ("hf", "hf-vit")


def build_reference(
    source: Path, family: str, config: ViTConfig, wrapper: str | None
) -> Reference | None:
    """The family's own model with the weights of a file; None if no library has such a model.

    Args:
      source: File of weights, or a folder as transformers saves it.
      family: A name in `regvit_jax.convert.dialects.DIALECTS`.
      config: What the weights were recognised as.
      wrapper: Under which name the file keeps the weights, if it keeps other things too.

    Raises:
      ImportError: If torch, or the family's library, is not installed.
    """
    if family in TIMM_FAMILIES:
        return _timm_reference(source, family, config, wrapper)
    if family in HUGGING_FACE_FAMILIES:
        return _hugging_face_reference(source, config)
    return None


def _timm_reference(source: Path, family: str, config: ViTConfig, wrapper: str | None) -> Reference:
    import torch

    _declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.layers import SwiGLUPacked
        from timm.models import vision_transformer

    gated: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    model = vision_transformer.VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        # timm counts the gates of a gated MLP as units.
        mlp_ratio=config.mlp_ratio * (2 if config.mlp == "swiglu" else 1),
        init_values=1.0 if config.layer_scale else None,
        reg_tokens=config.num_registers,
        # timm folds the position of CLS away where DINOv2 has registers.
        no_embed_class=family in ("deit", "timm") or config.num_registers > 0,
        **(gated if config.mlp == "swiglu" else {}),
    )
    state = _torch_state(source, wrapper)
    state = {name.replace("reg_tokens", "reg_token"): value for name, value in state.items()}
    # timm's own renaming of DeiT-III's and DINOv2's tensors.
    state = vision_transformer.checkpoint_filter_fn(state, model, adapt_layer_scale=True)
    model.load_state_dict(state, strict=True)
    return _tapped(torch, model.eval())


def _tapped(torch: Any, model: Any) -> Reference:
    """A function that runs timm's model and collects what hooks see on the way."""
    seen: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            seen[name] = output.numpy()

        return hook

    for index, block in enumerate(model.blocks):
        block.attn.fused_attn = False  # the fused kernel never holds the attention maps
        block.attn.attn_drop.register_forward_hook(keep(f"attention of block {index}"))
        block.register_forward_hook(keep(f"tokens after block {index}"))
    model.norm.register_forward_hook(keep("tokens after the last norm"))

    def run(images: Float[np.ndarray, "b h w 3"]) -> dict[str, np.ndarray]:
        seen.clear()
        with torch.no_grad():
            logits = model(_channels_first(torch, images)).numpy()
        return {**seen, "logits": logits}

    return run


def _hugging_face_reference(source: Path, config: ViTConfig) -> Reference:
    import torch

    _declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    kind = "AutoModelForImageClassification" if config.num_classes else "AutoModel"
    load = getattr(transformers, kind).from_pretrained
    model = load(source, attn_implementation="eager", dtype=torch.float32).eval()

    def run(images: Float[np.ndarray, "b h w 3"]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            output = model(
                _channels_first(torch, images), output_hidden_states=True, output_attentions=True
            )
        found = {
            f"tokens after block {index}": tokens.numpy()
            for index, tokens in enumerate(output.hidden_states[1:])
        }
        found |= {
            f"attention of block {index}": attention.numpy()
            for index, attention in enumerate(output.attentions)
        }
        if config.num_classes:
            return found | {"logits": output.logits.numpy()}
        normed = output.last_hidden_state.numpy()
        return found | {"tokens after the last norm": normed, "logits": normed[:, 0]}

    return run


def _torch_state(source: Path, wrapper: str | None) -> dict[str, Any]:
    """The named tensors of a file, read by torch's own code (or by the safetensors library)."""
    import torch

    if source.suffix == ".safetensors" or source.is_dir():
        from safetensors.torch import load_file

        files = sorted(source.glob("*.safetensors")) if source.is_dir() else [source]
        return {name: value.float() for file in files for name, value in load_file(file).items()}
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(source, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, TypeError) as error:
        raise InputError(f"torch.load refuses {source}: {error}") from error
    state = content if wrapper is None else content[wrapper]
    return {name.removeprefix("module."): value.float() for name, value in state.items()}


def _channels_first(torch: Any, images: Float[np.ndarray, "b h w 3"]) -> Any:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def _declare_torchvision_operators() -> None:
    """Lets timm and transformers import torchvision beside a torch that lacks its operators."""
    import torch

    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", signature)
