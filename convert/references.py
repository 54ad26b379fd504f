"""What does the family's own PyTorch code compute from a file of weights?

Imports torch, and only inside its functions: nothing else needs it.
"""

import functools
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from regvit_jax import strict_json
from regvit_jax.config import ViTConfig
from regvit_jax.convert.torch_side import declare_torchvision_operators, speechless
from regvit_jax.errors import InputError

Run = Callable[[Float[np.ndarray, "b h w 3"]], dict[str, np.ndarray]]
"""From normalised images to tensors by the names that `verification` gives them."""


class Reference(NamedTuple):
    """A network in somebody else's code."""

    title: str
    is_resampling: bool
    """Whether it takes images of other sizes, with the family's own rule for positions."""
    run: Run
    knows: tuple[str, ...] = ()
    """What it was not told: names of what is assumed on our side, that it so proves or refutes."""


_ALL = ("attention heads", "activation", "LayerNorm epsilon", "input of the head")

TIMM_FAMILIES = (
    "deit",
    "timm",
    "timm-dinov2",
    "dinov2",
    "deit1",
    "dino",
    "mmpretrain",
    "mmpretrain-deit3",
)
HUGGING_FACE_FAMILIES = ("hf", "hf-vit")

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


def build_reference(
    source: Path, family: str, config: ViTConfig, tensors: Mapping[str, np.ndarray]
) -> Reference | None:
    """The family's own model with the weights of a file; None if no library has such a model.

    Args:
      source: File of weights, or a folder as transformers or timm saves it.
      family: A name in `regvit_jax.convert.dialects.DIALECTS`.
      config: What the source was understood as, without a look at the checkpoint directory.
      tensors: In float32, by the family's own names.

    Raises:
      ImportError: If torch, or the family's library, is not installed.
      InputError: If the family's own model does not take exactly these tensors.
    """
    if family in TIMM_FAMILIES:
        return _timm_reference(source, family, config, tensors)
    if family in HUGGING_FACE_FAMILIES:
        return _hugging_face_reference(source, family, config, tensors)
    return None


def _timm_reference(
    source: Path, family: str, config: ViTConfig, tensors: Mapping[str, np.ndarray]
) -> Reference:
    import torch

    declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.models import vision_transformer

    state = {_TIMM_NAMES.get(name, name): value for name, value in tensors.items()}
    if family.startswith("mmpretrain"):
        state = dict(map(_from_mmpretrain, state.items()))
    given = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
    named = _named_timm_model(source, config, given)
    title, model = named or ("timm's VisionTransformer", _timm_model(family, config))
    # timm's own renaming of DeiT-III's and DINOv2's tensors.
    given = vision_transformer.checkpoint_filter_fn(given, model, adapt_layer_scale=True)
    try:
        model.load_state_dict(given, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"timm's own model does not take the weights of {source}: {error}"
        ) from error
    return Reference(title, False, _tapped(torch, model.eval()), _ALL if named else ())


def _timm_model(family: str, config: ViTConfig) -> Any:
    import torch
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    gated: dict[str, Any] = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    plain = functools.partial(torch.nn.GELU, approximate="tanh" if "tanh" in config.mlp else "none")
    return VisionTransformer(
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
        no_embed_class=family in ("deit", "timm", "mmpretrain-deit3") or config.num_registers > 0,
        norm_layer=functools.partial(torch.nn.LayerNorm, eps=config.layer_norm_epsilon),
        **(gated if config.mlp == "swiglu" else {"act_layer": plain}),
    )


def _named_timm_model(
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


def _tapped(torch: Any, model: Any) -> Run:
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


def _hugging_face_reference(
    source: Path, family: str, config: ViTConfig, tensors: Mapping[str, np.ndarray]
) -> Reference:
    import torch

    declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    kind = "AutoModelForImageClassification" if config.num_classes else "AutoModel"
    theirs = _hugging_face_config(transformers, source, family, config)
    base = "vit." if config.num_classes else ""
    state = {
        name if name.startswith("classifier.") else base + name: torch.from_numpy(np.array(value))
        for name, value in tensors.items()
        if config.num_classes or not name.startswith("classifier.")
    }
    auto = getattr(transformers, kind)
    model_class = auto._model_mapping[type(theirs)]
    theirs._attn_implementation = "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with speechless(transformers):
            try:
                model, loaded = model_class.from_pretrained(
                    None,
                    config=theirs,
                    state_dict=state,
                    output_loading_info=True,
                    dtype=torch.float32,
                )
            except (RuntimeError, ValueError) as error:
                line = (str(error).splitlines() or [""])[0]
                raise InputError(
                    f"transformers' own model does not take the weights of {source}: {line}"
                ) from error
    model = model.eval()
    if missing := sorted(loaded["missing_keys"]):
        allowed = [name for name in missing if not name.startswith("pooler.")]
        if allowed or loaded["mismatched_keys"]:
            raise InputError(
                f"transformers' own model does not take the weights of {source}: it lacks "
                f"{', '.join(allowed[:5])}."
            )

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

    knows = _ALL if _is_described(source) else ()
    return Reference(f"transformers' {model_class.__name__}", family == "hf", run, knows)


def _is_described(source: Path) -> bool:
    """Whether a folder says of which type its model is, without which transformers builds none."""
    path = source / "config.json"
    return source.is_dir() and path.exists() and "model_type" in strict_json.read_json(path)


def _hugging_face_config(transformers: Any, source: Path, family: str, config: ViTConfig) -> Any:
    """The folder's own configuration, else one of what the file was understood as."""
    from huggingface_hub.errors import StrictDataclassError

    if _is_described(source):
        try:
            return transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        except (ValueError, OSError, KeyError, TypeError, StrictDataclassError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise InputError(f"transformers reads no configuration in {source}: {line}") from error
    sizes = {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": config.layer_norm_epsilon,
        "hidden_act": "gelu_pytorch_tanh" if config.mlp == "gelu_tanh" else "gelu",
        "num_labels": max(config.num_classes, 1),
    }
    if family == "hf-vit":
        return transformers.ViTConfig(**sizes, intermediate_size=config.mlp_dim)
    from regvit_jax.convert.exporting import hugging_face_config

    sizes |= {k: hugging_face_config(config)[k] for k in ("mlp_ratio", "use_swiglu_ffn")}
    if config.num_registers:
        return transformers.Dinov2WithRegistersConfig(
            **sizes, num_register_tokens=config.num_registers
        )
    return transformers.Dinov2Config(**sizes)


def _channels_first(torch: Any, images: Float[np.ndarray, "b h w 3"]) -> Any:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
