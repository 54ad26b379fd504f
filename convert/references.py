"""What does the family's own PyTorch code compute from a file of weights?

Imports torch, and only inside its functions: nothing else needs it.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from regvit_jax.config import ViTConfig
from regvit_jax.convert import references_timm, references_torchvision, references_transformers
from regvit_jax.convert.reference import Reference

_LIBRARIES = {
    "timm": (references_timm.build, references_timm.FAMILIES),
    "transformers": (references_transformers.build, references_transformers.FAMILIES),
    "torchvision": (references_torchvision.build, ("torchvision",)),
}
"""By name: what builds its models, and of which families."""


def library_of(family: str) -> str:
    """The library that has models of a family; empty if none of these has."""
    return next((name for name, (_, known) in _LIBRARIES.items() if family in known), "")


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
    library = library_of(family)
    if not library:
        return None
    return _LIBRARIES[library][0](source, family, config, tensors)
