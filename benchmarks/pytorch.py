"""PyTorch as its users would set it up: all cores, or the GPU with TF32 as JAX uses it."""

import contextlib
import os
import warnings
from typing import Any

import numpy as np

from benchmarks.machine import device

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MODEL = "deit3_small_patch16_224"


def torch_device() -> str:
    """PyTorch's name of where the rivals compute."""
    return "cuda" if device() == "gpu" else "cpu"


def start_torch() -> Any:
    """The module, on all cores, with the precision of JAX's products."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high" if device() == "gpu" else "highest")
    return torch


def timm_model(num_registers: int, compiled: bool = False) -> tuple[Any, Any]:
    """Torch, and timm's DeiT-III Small."""
    torch = start_torch()
    import timm

    model = timm.create_model(MODEL, reg_tokens=num_registers).eval().to(torch_device())
    return torch, (torch.compile(model) if compiled else model)


def products_in(torch: Any, dtype: str) -> contextlib.AbstractContextManager[Any]:
    """Where matrix products have inputs of a type: "float32" or "bfloat16"."""
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(torch_device(), dtype=getattr(torch, dtype))


def normalised(torch: Any, pixels: np.ndarray) -> Any:
    """Images, channels first, where the model is."""
    mean, std = (torch.tensor(v, device=torch_device()).view(1, 3, 1, 1) for v in (MEAN, STD))
    images = torch.from_numpy(pixels).to(torch_device()).permute(0, 3, 1, 2)
    return (images / 255 - mean) / std


def finish(torch: Any) -> None:
    """Waits for the device, which works on while Python goes on."""
    if device() == "gpu":
        torch.cuda.synchronize()
