"""Are compiled programs kept, and a damaged one replaced?"""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys, pathlib
from regvit_jax import compilation
if compilation.FOLDER is not None:
    compilation.FOLDER = pathlib.Path(sys.argv[1])
compilation.cache_compilations()
import jax
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
print(jax.jit(lambda x: x * 3 + 1)(2.0))
"""


def started(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "XDG_CACHE_HOME": "", **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7.0\n"
    return done.stderr


def test_a_damaged_entry_is_replaced_once(tmp_path):
    started(tmp_path)
    entries = {path: path.read_bytes() for path in tmp_path.glob("*-cache")}
    assert entries
    for path, content in entries.items():
        path.write_bytes(content[: len(content) // 2])
    assert "persistent compilation cache" in started(tmp_path)
    assert "persistent compilation cache" not in started(tmp_path)


def test_without_a_home_nothing_is_kept_and_that_is_said(tmp_path):
    """`HOME` unset, and a user whom no file knows."""
    program = "import pathlib\npathlib.Path.home = lambda: (_ for _ in ()).throw(RuntimeError())\n"
    (tmp_path / "sitecustomize.py").write_text(program)
    assert "no home folder" in started(tmp_path / "cache", PYTHONPATH=str(tmp_path))
    assert not (tmp_path / "cache").exists()
