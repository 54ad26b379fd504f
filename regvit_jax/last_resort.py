"""What is left to do about an error that nobody foresaw? A sentence, and a file for the report."""

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from pathlib import Path

from regvit_jax.versions import versions


def write_log(error: BaseException) -> str:
    """A sentence about an unforeseen error; the traceback and the command go into a file.

    The file lies in the current folder, or among the temporary files where that cannot be written.
    """
    kind, words = type(error).__name__, " ".join(str(error).split())[:200]
    what = f"{kind}: {words}" if words else kind
    name = f"regvit-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            path = (folder / name).absolute()
            path.write_text(_log(error), encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return (
            f"something happened that should not ({what}). {path} tells where; please send it "
            "with a report."
        )
    return f"something happened that should not ({what}), and no log file could be written."


def _log(error: BaseException) -> str:
    lines = [
        f"Command: {shlex.join(sys.argv)}",
        f"Time: {time.strftime('%Y-%m-%d %H:%M:%S %z')}",
        f"Python: {platform.python_version()} on {platform.platform()}",
        *(f"{name}: {number}" for name, number in versions().items()),
        "",
        "".join(traceback.format_exception(error)),
    ]
    return "\n".join(lines)
