"""What does the source's own library make of a photograph?

Imports torch and its relatives, and only inside its functions: nothing else needs them.
"""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from regvit_jax import strict_json
from regvit_jax.convert.folder import pixels_config
from regvit_jax.convert.timm_facts import is_timm
from regvit_jax.convert.torch_side import declare_torchvision_operators, speechless
from regvit_jax.errors import InputError
from regvit_jax.preprocess import Preprocess


class Preparation(NamedTuple):
    """From a photograph to the network's input, by somebody else's code."""

    title: str
    prepare: Callable[[Image.Image], Float[np.ndarray, "h w 3"]]
    knows: tuple[str, ...] = ()
    """What it was not told, as of `Reference`."""


_PROCESSOR_TYPES = ("image_processor_type", "feature_extractor_type")
"""Without one of them, transformers does not know what to build."""
_REFUSALS = (ValueError, OSError, KeyError, TypeError, AttributeError)
_ALL = ("mean and std", "mean", "std", "crop", "interpolation")


def preparation(source: Path, preprocess: Preprocess, is_own: bool) -> Preparation:
    """The source's own preparation where its folder has one, else torchvision's.

    Args:
      source: The file or folder of the weights.
      preprocess: What was understood of the source; torchvision's is built from it.
      is_own: Whether the source's own counts: nobody said otherwise on import.

    Raises:
      ImportError: If torchvision, or the library, is not installed.
    """
    declare_torchvision_operators()
    config = source / "config.json"
    found = pixels_config(source) if is_own and source.is_dir() else None
    if found and any(name in found[1] for name in _PROCESSOR_TYPES):
        return _hugging_face(source) or _torchvision(preprocess)
    if is_own and source.is_dir() and config.exists():
        values = strict_json.read_json(config)
        if is_timm(values):
            return _timm(values, preprocess)
    return _torchvision(preprocess)


def _timm(values: Mapping[str, Any], preprocess: Preprocess) -> Preparation:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from timm.data import create_transform, resolve_data_config

    arguments: dict[str, Any] = {}
    if (values.get("model_args") or {}).get("img_size") is not None:
        arguments["img_size"] = preprocess.height
    settings = resolve_data_config(arguments, dict(values.get("pretrained_cfg") or values))
    transform = create_transform(**settings, is_training=False)
    return Preparation("timm's own transform", _channels_last(transform), _ALL)


def _hugging_face(source: Path) -> Preparation | None:
    """The folder's own image processor; None if it works on tensors only.

    Pillow's arithmetic counts: torchvision's on tensors differs by up to 11 levels of 255 (measured
    on 100 photographs of Pascal VOC).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

    try:
        with speechless(transformers):
            processor = transformers.AutoImageProcessor.from_pretrained(
                source, backend="pil", local_files_only=True, trust_remote_code=False
            )
    except _REFUSALS as error:
        line = (str(error).splitlines() or [""])[0]
        raise InputError(f"transformers builds no image processor from {source}: {line}") from error
    if not type(processor).__name__.endswith("Pil"):
        return None

    def prepare(image: Image.Image) -> Float[np.ndarray, "h w 3"]:
        try:
            found = processor(image, return_tensors="np")["pixel_values"][0]
        except _REFUSALS as error:
            line = (str(error).splitlines() or [""])[0]
            raise InputError(
                f"transformers' image processor of {source} prepares no photograph: {line}"
            ) from error
        return np.ascontiguousarray(found.transpose(1, 2, 0), np.float32)

    return Preparation("transformers' own image processor (on Pillow)", prepare, _ALL)


def _torchvision(preprocess: Preprocess) -> Preparation:
    from torchvision import transforms
    from torchvision.transforms import InterpolationMode

    mode = InterpolationMode(preprocess.interpolation)
    side = (preprocess.height, preprocess.width)
    if preprocess.resize == "squash":
        steps = [transforms.Resize(side, mode)]
    else:
        steps = [transforms.Resize(preprocess.short_side, mode), transforms.CenterCrop(side)]
    steps += [transforms.ToTensor(), transforms.Normalize(preprocess.mean, preprocess.std)]
    return Preparation("torchvision's transforms", _channels_last(transforms.Compose(steps)))


def _channels_last(transform: Any) -> Callable[[Image.Image], Float[np.ndarray, "h w 3"]]:
    return lambda image: np.ascontiguousarray(transform(image).numpy().transpose(1, 2, 0))
