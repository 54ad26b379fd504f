"""How is a program compiled only once on a machine?"""

import os
import sys
from pathlib import Path

import jax


def cache_folder() -> Path | None:
    """Where compiled programs are kept: `XDG_CACHE_HOME` or `~/.cache`; None without a home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        root = Path(base) if base else Path.home() / ".cache"
    except RuntimeError:  # no HOME, and no entry in passwd
        return None
    return root / "regvit_jax" / "compiled"


def cache_compilations() -> None:
    """Keeps compiled programs on disk, where the next run of a command finds them.

    Commands call this; a library that changes its user's JAX would be a surprise. A folder that
    cannot be written costs a warning of JAX's and nothing else.
    """
    folder = cache_folder()
    if folder is None:
        sys.stderr.write(
            "There is no home folder, so that programs are compiled anew by every command. Set "
            "XDG_CACHE_HOME to a folder that may be written.\n"
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
