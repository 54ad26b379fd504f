"""What do timm's networks compute from a file of weights?

Imports torch and timm, and only inside its functions: nothing else needs them.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from regvit_jax import strict_json
from regvit_jax.config import ViTConfig
from regvit_jax.convert.reference import EVERYTHING, Reference, Run, channels_first
from regvit_jax.convert.torch_side import declare_torchvision_operators
from regvit_jax.errors import InputError

EVA_FAMILIES = ("dinov3", "timm-dinov3", "timm-rope")
NPZ_FAMILIES = ("augreg-jax", "big_vision")
FAMILIES = (
    *("deit", "timm", "timm-gap", "timm-dinov2", "dinov2", "deit1", "dino", "mae", "augreg"),
    *("clip", "timm-clip", "tips", "mmpretrain", "mmpretrain-deit3"),
    *EVA_FAMILIES,
    *NPZ_FAMILIES,
)
_NO_CLASS_SLOT = ("deit", "timm", "mmpretrain-deit3")
_DROPPED = ("linear_head.", "decoder_", "masked_embed", "rope_embed.")

_TIMM_NAMES = {"reg_tokens": "reg_token"}
_TIMM_ARGUMENTS = (
    "img_size",
    "patch_size",
    "embed_dim",
    "depth",
    "num_heads",
    "mlp_ratio",
    "reg_tokens",
    "no_embed_class",
    "init_values",
    "dynamic_img_size",
    "act_layer",
)
"""What a folder may tell timm to build otherwise."""
_MMPRETRAIN_NAMES = {
    "patch_embed.projection": "patch_embed.proj",
    "head.layers.head": "head",
    "layers.": "blocks.",
    "attn.gamma1.weight": "ls1.gamma",
    "ffn.gamma2.weight": "ls2.gamma",
    "ffn.blocks.0.0": "mlp.fc1",
    "ffn.blocks.1": "mlp.fc2",
    ".ln1": ".norm1",
    ".ln2": ".norm2",
}
"""MMPretrain's names, in the order in which they are replaced by timm's."""


def build(
    source: Path, family: str, config: ViTConfig, tensors: Mapping[str, np.ndarray]
) -> Reference:
    """Timm's own model; arguments and errors as of `references.build_reference`."""
    import torch

    declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.models import eva, vision_transformer

    state = {name: v for name, v in tensors.items() if not name.startswith(_DROPPED)}
    state = {_TIMM_NAMES.get(name, name): value for name, value in state.items()}
    if family.startswith("mmpretrain"):
        state = dict(map(_from_mmpretrain, state.items()))
    if family == "clip":
        state = {f"visual.{n.replace('.ls_', '.ls')}": value for n, value in state.items()}
    # By its mask token, timm knows DINOv2, whose position of CLS it then folds away.
    if family == "mae":
        state.pop("mask_token", None)
    if family in ("dinov2", "tips"):
        state.setdefault("mask_token", np.zeros((1, config.embed_dim), np.float32))
    given = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    named = _named_model(source, config, given)
    title, model = named or _model(family, config, given)
    module = eva if family in EVA_FAMILIES else vision_transformer
    try:
        if family in NPZ_FAMILIES:
            model.load_pretrained(str(source))
        else:
            # timm's own renaming of DeiT-III's, DINOv2's, DINOv3's and CLIP's tensors.
            options: dict[str, Any] = {} if module is eva else {"adapt_layer_scale": True}
            loaded = module.checkpoint_filter_fn(given, model, **options)
            if family == "clip" and not config.num_classes:
                loaded = {k: v for k, v in loaded.items() if not k.startswith("head.")}
            model.load_state_dict(loaded, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"timm's own model does not take the weights of {source}: {error}"
        ) from error
    run = tapped(torch, model.eval())
    if config.pooling == "cls_and_patches":
        run = _with_linear_head(run, config, tensors)
    return Reference(title, family in EVA_FAMILIES, run, EVERYTHING if named else ())


def _with_linear_head(run: Run, config: ViTConfig, tensors: Mapping[str, np.ndarray]) -> Run:
    """DINOv2's classifier after a network of timm's, which has none."""
    weight, bias = tensors["linear_head.weight"], tensors["linear_head.bias"]

    def run_both(images: Float[np.ndarray, "b h w c"]) -> dict[str, np.ndarray]:
        found = run(images)
        tokens = found["tokens after the last norm"]
        mean = tokens[:, 1 + config.num_registers :].mean(axis=1)
        pooled = np.concatenate([tokens[:, 0], mean], axis=1)
        return found | {"logits": pooled @ weight.T + bias}

    return run_both


def _model(family: str, config: ViTConfig, state: Mapping[str, Any]) -> tuple[str, Any]:
    """A model of these sizes, and what to call it."""
    import torch

    sizes: dict[str, Any] = {
        "img_size": config.image_shape[:2],
        "patch_size": config.patch_size,
        "in_chans": config.num_channels,
        "num_classes": config.num_classes if config.pooling != "cls_and_patches" else 0,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "init_values": 1.0 if config.layer_scale else None,
        "class_token": config.class_token,
        "global_pool": "avg" if config.pooling == "patches" else "token",
        "norm_layer": functools.partial(torch.nn.LayerNorm, eps=config.layer_norm_epsilon),
        "qkv_bias": config.qkv_bias,
    }
    if family in EVA_FAMILIES:
        return "timm's Eva", _eva(config, sizes)
    return "timm's VisionTransformer", _vision_transformer(family, config, sizes, state)


def _eva(config: ViTConfig, sizes: Mapping[str, Any]) -> Any:
    from timm.models.eva import Eva

    centred: dict[str, Any] = {"rope_type": "dinov3", "rope_temperature": config.rope_base}
    scaled: dict[str, Any] = {"rope_temperature": config.rope_base, "ref_feat_shape": config.grid}
    gated = config.mlp == "swiglu"
    return Eva(
        **sizes,
        mlp_ratio=config.mlp_ratio,
        swiglu_mlp=gated,
        swiglu_align_to=1 if gated else 0,
        num_reg_tokens=config.num_registers,
        use_abs_pos_emb=False,
        use_rot_pos_emb=True,
        use_fc_norm=config.pooled_norm,
        dynamic_img_size=True,
        rope_rotate_half=config.rope == "centred",
        **(centred if config.rope == "centred" else scaled),
    )


def _vision_transformer(
    family: str, config: ViTConfig, sizes: Mapping[str, Any], state: Mapping[str, Any]
) -> Any:
    import torch
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    gated: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    names = {"gelu": "gelu", "gelu_tanh": "gelu_tanh", "quick_gelu": "quick_gelu"}
    rows, cols = config.grid
    positions = state["pos_embed"].shape[1] if family == "timm-gap" else 0
    no_slots = family in _NO_CLASS_SLOT or positions == rows * cols
    # timm folds the position of CLS away where DINOv2 has registers.
    is_folded = family in ("dinov2", "tips") and config.num_registers > 0
    return VisionTransformer(
        **sizes,
        # timm counts the gates of a gated MLP as units.
        mlp_ratio=config.mlp_ratio * (2 if config.mlp == "swiglu" else 1),
        reg_tokens=config.num_registers,
        no_embed_class=no_slots or is_folded,
        pre_norm=config.norm_pre,
        qk_norm=config.qk_norm,
        fc_norm=config.pooled_norm,
        **(gated if config.mlp == "swiglu" else {"act_layer": names[config.mlp]}),
    )


def _named_model(
    source: Path, config: ViTConfig, state: Mapping[str, Any]
) -> tuple[str, Any] | None:
    """The model that timm builds by the name in a folder's `config.json`, if the weights fit it.

    Its heads, epsilon and non-linearity are timm's own, not what we understood.
    """
    import timm
    import torch

    path = source / "config.json"
    values = strict_json.read_json(path) if source.is_dir() and path.exists() else {}
    name = values.get("architecture")
    if not isinstance(name, str) or not timm.is_model(name):
        return None
    given = values.get("model_args")
    given = given if isinstance(given, dict) else {}
    arguments = {k: v for k, v in given.items() if k in _TIMM_ARGUMENTS}
    if isinstance(values.get("global_pool"), str):
        arguments["global_pool"] = values["global_pool"]
    try:
        with torch.device("meta"):
            blank = timm.create_model(name, num_classes=config.num_classes, **arguments)
    except (TypeError, ValueError, RuntimeError, AssertionError, AttributeError):
        return None
    shapes = {key: tuple(value.shape) for key, value in blank.state_dict().items()}
    if shapes != {key: tuple(value.shape) for key, value in state.items()}:
        return None
    model = timm.create_model(name, num_classes=config.num_classes, **arguments)
    return f"timm's {name}", model


def _from_mmpretrain(item: tuple[str, np.ndarray]) -> tuple[str, np.ndarray]:
    """A tensor under timm's name."""
    name, value = item
    if name.startswith("ln1."):
        return name.replace("ln1.", "norm.", 1), value
    for theirs, timms in _MMPRETRAIN_NAMES.items():
        name = name.replace(theirs, timms)
    return name, value


def tapped(torch: Any, model: Any) -> Run:
    """A function that runs timm's model and collects what hooks see on the way.

    Args:
      torch: The module.
      model: A `VisionTransformer` or an `Eva`.
    """
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
            logits = model(channels_first(torch, images)).numpy()
        return {**seen, "logits": logits}

    return run
