"""Which analysis does a file of the user's hold? `regvit-analyze run my_analysis.py` runs it."""

import hashlib
import sys
import traceback
import types
from pathlib import Path

from regvit_jax.analysis.engine.analysis import Analysis
from regvit_jax.errors import InputError

_MODULE = "regvit_own_analysis"


def load_analysis(file: Path) -> tuple[Analysis, str]:
    """The one `Analysis` that a Python file defines, and a checksum of the file.

    The file is run: it is the user's own code.

    Raises:
      InputError: If there is no such file, it fails, or it does not define one analysis.
    """
    if not file.is_file():
        raise InputError(
            f"There is no file {file}. Expected a Python file that defines an `Analysis`; "
            "docs/extend.md shows one."
        )
    content = file.read_bytes()
    module = types.ModuleType(_MODULE)
    module.__file__ = str(file)
    sys.modules[_MODULE] = module  # dataclasses look for it
    sys.path.insert(0, str(file.resolve().parent))  # as Python does for a script
    try:
        exec(compile(content, str(file), "exec"), vars(module))
    except Exception as error:  # whatever goes wrong in the user's code is not ours
        line = next((f.lineno for f in reversed(_frames(error)) if f.filename == str(file)), None)
        where = f"{file}, line {line}" if line else str(file)
        raise InputError(f"{where}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    found = [value for value in vars(module).values() if isinstance(value, Analysis)]
    if len(found) != 1:
        raise InputError(
            f"{file} defines {len(found)} analyses; expected one `Analysis(...)` under a name of "
            "its own."
        )
    return found[0], hashlib.sha256(content).hexdigest()[:16]


def _frames(error: BaseException) -> list[traceback.FrameSummary]:
    return list(traceback.extract_tb(error.__traceback__))
