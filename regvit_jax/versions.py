"""Which version is this, and which are those that results depend on?"""

import importlib.metadata
import tomllib
from pathlib import Path

LIBRARIES = ("regvit-jax", "jax", "jaxlib", "flax", "numpy", "orbax-checkpoint", "pillow")


def version() -> str:
    """The version of the installed package; in a checkout, that of its `pyproject.toml`."""
    if installed := _installed("regvit-jax"):
        return installed
    try:
        text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
        return tomllib.loads(text)["project"]["version"]
    except (OSError, KeyError, tomllib.TOMLDecodeError):
        return "unknown"


def versions() -> dict[str, str]:
    """The versions of the libraries that results depend on, by name."""
    found = {name: _installed(name) for name in LIBRARIES}
    return {name: number for name, number in found.items() if number}


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
