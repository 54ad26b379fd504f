"""Convert checkpoints between PyTorch and regvit_jax; `from_torch` does it without a file."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regvit_jax.convert.in_memory import from_torch

__all__ = ["from_torch"]


def __getattr__(name: str):
    """`from_torch`, imported on first use, so that `--help` needs no NumPy."""
    if name != "from_torch":
        raise AttributeError(f"module 'regvit_jax.convert' has no attribute {name!r}")
    from regvit_jax.convert.in_memory import from_torch

    return from_torch
