"""How is a program compiled only once on a machine?"""

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax


def cache_folder() -> Path | None:
    """Where compiled programs are kept: `XDG_CACHE_HOME` or `~/.cache`; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # no HOME, and no entry in passwd
        return None
    return root / "regvit_jax" / "compiled"


FOLDER = cache_folder()


def cache_compilations() -> None:
    """Keeps compiled programs on disk, where the next run of a command finds them.

    Commands call this; a library that changes its user's JAX would be a surprise. A folder that
    cannot be written costs a warning of JAX's and nothing else.
    """
    if FOLDER is None:
        sys.stderr.write(
            "There is no home folder, so that programs are compiled anew by every command. Set "
            "XDG_CACHE_HOME to a folder that may be written.\n"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(FOLDER))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    _replace_damaged_entries()


def _replace_damaged_entries() -> None:
    """Makes JAX write an entry anew that it cannot read; left to itself it keeps such a one."""
    # Not public: in a version without it, a damaged entry is compiled anew at each start.
    cache: Any = importlib.import_module("jax._src.compilation_cache")
    read = getattr(cache, "get_executable_and_time", None)
    if read is not None and not hasattr(read, "removes_damaged"):
        cache.get_executable_and_time = _removing_damaged(read)


def _removing_damaged(read: Callable[..., Any]) -> Callable[..., Any]:
    def get(cache_key: str, *args: Any, **options: Any) -> Any:
        is_read = False
        try:
            found = read(cache_key, *args, **options)
            is_read = True
            return found
        finally:
            if not is_read:
                _remove(str(FOLDER), f"{cache_key}-cache")

    get.removes_damaged = True  # type: ignore[attr-defined]
    return get


def _remove(folder: str, name: str) -> None:
    try:
        os.unlink(os.path.join(folder, name))
    except OSError:  # gone already, or not ours: compiled anew at the next start
        pass
