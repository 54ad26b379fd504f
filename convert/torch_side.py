"""How are timm and transformers used as guests: beside any torchvision, and without their talk?"""

import contextlib
from collections.abc import Iterator
from typing import Any


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


@contextlib.contextmanager
def speechless(transformers: Any) -> Iterator[None]:
    """Without transformers' progress bars and tables; what it says counts where it raises."""
    logging = transformers.utils.logging
    level, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if has_bar:
            logging.enable_progress_bar()
