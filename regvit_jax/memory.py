"""How does memory that is free again get back to the system?"""

import ctypes


def release_free_memory() -> None:
    """Gives back what the C library keeps for later, such as what compiling a step has used.

    Only glibc keeps so much, and only there is anything done.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
