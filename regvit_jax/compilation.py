"""How is a program compiled only once on a machine?"""

from pathlib import Path

import jax

FOLDER = Path.home() / ".cache" / "regvit_jax" / "compiled"


def cache_compilations() -> None:
    """Keeps compiled programs on disk, where the next run of a command finds them.

    Commands call this; a library that changes its user's JAX would be a surprise. A folder that
    cannot be written costs a warning of JAX's and nothing else.
    """
    jax.config.update("jax_compilation_cache_dir", str(FOLDER))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
