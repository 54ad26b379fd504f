"""Vision transformers with registers in JAX: the model, and the ways to look inside it.

The public names are imported on first use, so that `--help` of a command needs no JAX.
"""

import importlib

_HOME = {
    "DeiT3": "regvit_jax.model",
    "Edit": "regvit_jax.edits",
    "InputError": "regvit_jax.errors",
    "TokenLayout": "regvit_jax.tokens",
    "VARIANTS": "regvit_jax.config",
    "ViTConfig": "regvit_jax.config",
    "from_torch": "regvit_jax.convert.in_memory",
    "load": "regvit_jax.checkpoint",
    "load_images": "regvit_jax.photographs",
    "look": "regvit_jax.analysis.look.notebook",
    "norms": "regvit_jax.analysis.look.notebook",
    "save": "regvit_jax.checkpoint",
    "show_attention": "regvit_jax.analysis.look.notebook",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    if name == "__version__":
        return importlib.import_module("regvit_jax.versions").version()
    if name not in _HOME:
        raise AttributeError(f"module 'regvit_jax' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
