"""On which machine, and on which of its devices, do the rivals compute?"""

import importlib.metadata
import importlib.util
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

Device = Literal["cpu", "gpu"]
_DEVICE = "REGVIT_BENCHMARK_DEVICE"
_PACKAGES = (
    *("jax", "jaxlib", "flax", "orbax-checkpoint", "numpy", "scipy"),
    *("torch", "torchvision", "timm", "pillow", "opencv-python-headless"),
)


def device() -> Device:
    """Where the rivals of this process, and of those that it starts, compute."""
    return "gpu" if os.environ.get(_DEVICE) == "gpu" else "cpu"


def choose_device(chosen: Device) -> None:
    """Decides for this process and all that it starts; call it before JAX is imported."""
    os.environ[_DEVICE] = chosen
    os.environ["JAX_PLATFORMS"] = "cpu" if chosen == "cpu" else "cuda,cpu"
    # By default JAX takes three quarters of the card, and the rivals wait on it side by side.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def kind() -> str:
    """A name for files: "x86_64-2cores", or a GPU's model."""
    if device() == "gpu":
        return "-".join(_gpu().lower().split())
    return f"{platform.machine()}-{os.cpu_count()}cores"


def description() -> dict[str, Any]:
    """What a reader must know of the machine to compare figures with his own."""
    versions = {name: version for name in _PACKAGES if (version := _version(name))}
    processor = _gpu() if device() == "gpu" else _processor()
    return {"kind": kind(), "processor": processor, "versions": versions}


def peak_mb() -> float:
    """Largest memory so far, in MiB: a GPU's own, or the process's and its children's."""
    if device() == "gpu":
        if "torch" in sys.modules:
            return sys.modules["torch"].cuda.max_memory_allocated() / 2**20
        import jax

        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**20
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in kinds) / 1024


def gpu_problem() -> str | None:
    """Why nothing can be measured on a GPU; None where it can."""
    if not _nvidia_smi():
        return "nvidia-smi shows no GPU"
    if not any(map(importlib.util.find_spec, ("jax_cuda13_plugin", "jax_cuda12_plugin"))):
        return "JAX is installed without CUDA; run `pip install 'jax[cuda13]'`"
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.version.cuda is not None:
            return None
    return "PyTorch is not installed for CUDA; install such a build"


def _gpu() -> str:
    return _nvidia_smi().splitlines()[0].strip()


def _nvidia_smi() -> str:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    lines = info.read_text().splitlines()
    name = next((line.split(": ")[1] for line in lines if line.startswith("model name")), "unknown")
    wide = any("avx512f" in line for line in lines if line.startswith("flags"))
    return f"{name}, {'AVX-512' if wide else 'no AVX-512'}"
