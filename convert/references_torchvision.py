"""What does torchvision's network compute from a file of weights?

Imports torch and torchvision, and only inside its functions: nothing else needs them.
"""

import functools
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from regvit_jax.config import ViTConfig
from regvit_jax.convert.reference import Reference, channels_first
from regvit_jax.convert.torch_side import declare_torchvision_operators


def build(
    source: Path, family: str, config: ViTConfig, tensors: Mapping[str, np.ndarray]
) -> Reference:
    """Torchvision's own model; arguments as of `references.build_reference`."""
    import torch

    declare_torchvision_operators()
    from torchvision.models import VisionTransformer

    model = VisionTransformer(
        config.image_size,
        config.patch_size,
        config.depth,
        config.num_heads,
        config.embed_dim,
        config.mlp_dim,
        num_classes=max(config.num_classes, 1),
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=config.layer_norm_epsilon),
    )
    if not config.num_classes:
        model.heads = torch.nn.Identity()
    model.load_state_dict({name: torch.from_numpy(np.array(v)) for name, v in tensors.items()})
    model.eval()
    seen: dict[str, np.ndarray] = {}
    modules = {f"tokens after block {i}": block for i, block in enumerate(model.encoder.layers)}
    for name, module in (modules | {"tokens after the last norm": model.encoder.ln}).items():
        module.register_forward_hook(
            lambda _module, _inputs, output, name=name: seen.update({name: output.numpy()})
        )

    def run(images: Float[np.ndarray, "b h w c"]) -> dict[str, np.ndarray]:
        seen.clear()
        with torch.no_grad():
            logits = model(channels_first(torch, images)).numpy()
        return {**seen, "logits": logits}

    return Reference("torchvision's VisionTransformer", False, run)
