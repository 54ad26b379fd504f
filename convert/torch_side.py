"""How do timm and transformers import beside a torchvision that does not fit torch?"""

import contextlib


def declare_torchvision_operators() -> None:
    """Declares the operators that timm's import asks for, where torchvision cannot load its own.

    Builds of two places (a CPU-only torch and the usual torchvision) do not fit together. One that
    fits is left alone: an operator declared twice aborts the process.

    Raises:
      ImportError: If torch is not installed.
    """
    import torch

    try:
        with contextlib.suppress(ModuleNotFoundError):
            import torchvision  # noqa: F401
    except RuntimeError:
        for operator in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, operator):
                signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                torch.library.define(f"torchvision::{operator}", signature)
