"""Tests run on four virtual CPU devices; timm may be imported with a CPU-only torch."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

REAL_DATA = Path(os.environ.get("REGVIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def photographs() -> Path:
    """A folder of real photographs (Imagenette, in class folders), where the machine has it."""
    folder = REAL_DATA / "imagenette2-224" / "val"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder} (set REGVIT_DATA)")
    return folder
