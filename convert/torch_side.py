"""How do timm and transformers import beside a torch whose torchvision lacks its operators?"""


def declare_torchvision_operators() -> None:
    """Declares what torchvision's import asks for; nothing here calls it.

    Raises:
      ImportError: If torch is not installed.
    """
    import torch

    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", signature)
