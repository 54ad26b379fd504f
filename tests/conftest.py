"""Tests run on four virtual CPU devices; comparisons with PyTorch skip where it is absent."""

import os
import signal
import traceback
import warnings
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Compilation is most of the work here; without optimisation it takes half of the time.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
)

import jax
import numpy as np
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parents[1] / ".pytest_cache/xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# `nohup` and shells that start a command with `&` hand down signals that are ignored.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        usual = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, usual)

TESTS = Path(__file__).parent
REAL_DATA = Path(os.environ.get("REGVIT_DATA", Path(__file__).parents[2] / "shared" / "data"))


PARITY = {"torch", "torchvision", "timm", "transformers", "safetensors"}
"""What only comparisons with PyTorch need."""


def _skip_without_pytorch(error: ModuleNotFoundError) -> None:
    """Skips where a test itself, not what it tests, imports a library that is not installed."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    importer = next(name for name in reversed(frames) if not name.startswith("<frozen"))
    if (error.name or "").split(".")[0] in PARITY and Path(importer).is_relative_to(TESTS):
        pytest.skip(f"{error.name} is not installed (the extra torch)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    try:
        return (yield)
    except ModuleNotFoundError as error:
        _skip_without_pytorch(error)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    try:
        return (yield)
    except ModuleNotFoundError as error:
        _skip_without_pytorch(error)
        raise


@pytest.fixture(scope="session")
def photographs() -> Path:
    """A folder of real photographs (Imagenette, in class folders), where the machine has it."""
    folder = REAL_DATA / "imagenette2-224" / "val"
    if not folder.is_dir():
        pytest.skip(f"no photographs at {folder} (set REGVIT_DATA)")
    return folder


@pytest.fixture(scope="session")
def voc_sample() -> Path:
    """A VOC root with 100 annotated photographs, where the machine has it."""
    folder = REAL_DATA / "voc-sample"
    if not folder.is_dir():
        pytest.skip(f"no VOC sample at {folder} (set REGVIT_DATA)")
    return folder


@pytest.fixture(scope="session")
def timm():
    """The timm library."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("timm", reason="timm is not installed (the extra torch)")


@pytest.fixture(scope="session")
def textures() -> np.ndarray:
    """Eight real photographs that scikit-image ships, 224 px, normalised: (8, 224, 224, 3)."""
    import skimage.data
    from PIL import Image

    from regvit_jax.preprocess import Preprocess

    preprocess = Preprocess()
    folder = Path(skimage.data.__file__).parent
    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "brick.png", "grass.png")
    images = [Image.open(folder / name).convert("RGB") for name in names]
    images += [image.rotate(180) for image in images[:2]]
    pixels = np.stack([preprocess.pixels(image) for image in images])
    return np.asarray(preprocess.normalise(pixels))
