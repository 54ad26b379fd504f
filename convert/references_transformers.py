"""What do transformers' networks compute from a file of weights?

Imports torch and transformers, and only inside its functions: nothing else needs them.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from regvit_jax import strict_json
from regvit_jax.config import ViTConfig
from regvit_jax.convert.hugging_face_config import HEADS, hugging_face_config, prefix
from regvit_jax.convert.reference import EVERYTHING, Reference, channels_first
from regvit_jax.convert.torch_side import declare_torchvision_operators, speechless
from regvit_jax.errors import InputError

FAMILIES = ("hf", "hf-vit", "hf-dinov3", "hf-clip")


def build(
    source: Path, family: str, config: ViTConfig, tensors: Mapping[str, np.ndarray]
) -> Reference:
    """Transformers' own model; arguments and errors as of `references.build_reference`."""
    import torch

    declare_torchvision_operators()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    theirs = _config(transformers, source, family, config)
    theirs._attn_implementation = "eager"
    model_class = _model_class(transformers, theirs, family, config)
    base = prefix(config, family)
    state = {
        name if name.startswith(HEADS) else base + name: torch.from_numpy(np.array(value))
        for name, value in tensors.items()
        if config.num_classes or not name.startswith(HEADS)
    }
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
    missing = [name for name in sorted(loaded["missing_keys"]) if not name.startswith("pooler.")]
    if missing or loaded["mismatched_keys"]:
        raise InputError(
            f"transformers' own model does not take the weights of {source}: it lacks "
            f"{', '.join(missing[:5])}."
        )
    options = {"interpolate_pos_encoding": True} if family == "hf-clip" else {}

    def run(images: Float[np.ndarray, "b h w c"]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            output = model(
                channels_first(torch, images),
                output_hidden_states=True,
                output_attentions=True,
                **options,
            )
        hidden, attention = output.hidden_states[1:], output.attentions
        found = {f"tokens after block {i}": tokens.numpy() for i, tokens in enumerate(hidden)}
        found |= {f"attention of block {i}": maps.numpy() for i, maps in enumerate(attention)}
        return found | _answers(output, config, family)

    knows = EVERYTHING if _is_described(source) else ()
    return Reference(f"transformers' {model_class.__name__}", family != "hf-vit", run, knows)


def _answers(output: Any, config: ViTConfig, family: str) -> dict[str, np.ndarray]:
    """Logits, or what stands for them, and normed tokens where transformers gives them."""
    if family == "hf-clip":
        pooled = output.image_embeds if config.num_classes else output.pooler_output
        return {"logits": pooled.numpy()}
    if config.num_classes:
        return {"logits": output.logits.numpy()}
    normed = output.last_hidden_state.numpy()
    return {"tokens after the last norm": normed, "logits": normed[:, 0]}


def _model_class(transformers: Any, theirs: Any, family: str, config: ViTConfig) -> Any:
    if family == "hf-clip":
        kind = "CLIPVisionModelWithProjection" if config.num_classes else "CLIPVisionModel"
        return getattr(transformers, kind)
    kind = "AutoModelForImageClassification" if config.num_classes else "AutoModel"
    return getattr(transformers, kind)._model_mapping[type(theirs)]


def _is_described(source: Path) -> bool:
    """Whether a folder says of which type its model is, without which transformers builds none."""
    path = source / "config.json"
    return source.is_dir() and path.exists() and "model_type" in strict_json.read_json(path)


def _config(transformers: Any, source: Path, family: str, config: ViTConfig) -> Any:
    """The folder's own configuration, else one of what the file was understood as."""
    from huggingface_hub.errors import StrictDataclassError

    if _is_described(source):
        try:
            found = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        except (ValueError, OSError, KeyError, TypeError, StrictDataclassError) as error:
            line = (str(error).splitlines() or [""])[0]
            raise InputError(f"transformers reads no configuration in {source}: {line}") from error
        return getattr(found, "vision_config", found)
    values = hugging_face_config(config, family)
    kinds = {"vit": "ViTConfig", "dinov2": "Dinov2Config", "dinov3_vit": "DINOv3ViTConfig"}
    kinds |= {"dinov2_with_registers": "Dinov2WithRegistersConfig"}
    kinds |= {"clip_vision_model": "CLIPVisionConfig"}
    kind = getattr(transformers, kinds[values["model_type"]])
    return kind(**values)
