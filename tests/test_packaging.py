"""Is what users install what we wrote, and does help come at once?"""

import importlib.util
import json
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

from regvit_jax.shipped import FOLDER, MODELS

ROOT = Path(__file__).parents[1]
COMMANDS = ("regvit-convert", "regvit-train", "regvit-analyze")
ROOMS = ("convert", "train", "analysis")
HELP_SECONDS = 0.7
RELATIVE_LINK = r"\]\((?!https?:|#)"


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_the_wheel_holds_one_import_name_and_every_module(tmp_path):
    copy = tmp_path / "copy"  # building in the checkout would leave its folders there
    folders = ("regvit_jax", "tests", "benchmarks", *ROOMS)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", *folders):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, _made(copy) / name, symlinks=True)
        else:
            shutil.copy(path, _made(copy) / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    assert not re.search(RELATIVE_LINK, archive.read(metadata).decode())
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == {"regvit_jax"}
    assert "regvit_jax/py.typed" in names
    for room in ROOMS:
        for path in (ROOT / room).rglob("*"):
            if path.suffix in (".py", ".jinja"):
                assert f"regvit_jax/{path.relative_to(ROOT)}" in names
    shipped = {str(p.relative_to(ROOT)) for p in FOLDER.rglob("*") if p.is_file()}
    assert len({Path(name).parts[2] for name in shipped} & set(MODELS)) == len(MODELS)
    assert shipped <= names
    assert sum(archive.getinfo(name).file_size for name in shipped) < 1e6


def test_readmes_pictures_have_absolute_addresses_on_a_package_index():
    for_an_index = runpy.run_path(str(ROOT / "setup.py"))["for_an_index"]
    readme = (ROOT / "README.md").read_text()
    pictures = re.findall(r"!\[[^\]]*\]\((docs/[^)]+)\)", readme)
    assert pictures
    shown = for_an_index(readme, "https://example.org/raw/v1/")
    assert not re.search(RELATIVE_LINK, shown)
    assert all(f"](https://example.org/raw/v1/{picture})" in shown for picture in pictures)
    plain = for_an_index(readme, "")
    assert not re.search(RELATIVE_LINK, plain)
    assert "![" not in plain
    assert plain.count("](https://") == readme.count("](https://")


def test_timm_imports_beside_the_installed_torchvision():
    """Both by itself and after the converter's help for a torchvision that does not fit torch."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed (the extra torch)")
    for first in (
        "",
        "from regvit_jax.convert import torch_side as t; t.declare_torchvision_operators(); ",
    ):
        program = first + "import timm, torchvision; torchvision.ops.nms"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_users_own_files_do_not_clash(tmp_path):
    """A research repository has its `train.py` and `analysis/`; both sides find their own."""
    (tmp_path / "train.py").write_text("MINE = True\n")
    for name in ("analysis", "convert"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    program = (
        "import train, analysis, convert\n"
        "assert train.MINE and analysis.MINE and convert.MINE\n"
        "from regvit_jax.analysis.statistics.bootstrap import Bootstrap\n"
        "from regvit_jax.train.recipe import Recipe\n"
        "from regvit_jax.convert.cli import main\n"
    )
    (tmp_path / "mine.py").write_text(program)
    for command in ([sys.executable, "mine.py"], [sys.executable, "-m", "mine"]):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    for command in COMMANDS:
        path = Path(sys.executable).with_name(command)
        environment = {**os.environ, "PYTHONPATH": "."}
        done = subprocess.run(
            [path, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_loading_the_heavy_libraries(command):
    """No JAX, Flax, Orbax, torch or matplotlib; the median of three calls is under 0.7 s."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts[command].split(":")
    program = (
        f"import sys; sys.argv = ['{command}', '--help']\n"
        f"from {module} import {function}\n"
        f"try: {function}()\n"
        "finally: print([m for m in ('jax', 'flax', 'orbax', 'torch', 'matplotlib', 'scipy')"
        " if m in sys.modules], file=sys.stderr)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "[]"
        assert "usage" in done.stdout
    assert statistics.median(seconds) < 2 * HELP_SECONDS  # twice: the machine may be busy


QUIET = """
import contextlib, io, sys
from pathlib import Path
import regvit_jax
from regvit_jax.checkpoint import read_info
assert regvit_jax.__version__
assert read_info(Path(sys.argv[1])).model.depth == 2
heavy = {"jax", "flax", "orbax", "torch", "matplotlib", "scipy"}
assert not heavy & set(sys.modules), "read_info"
import regvit_jax.analysis.cli, regvit_jax.convert.cli, regvit_jax.train.cli
for tool, room, commands in (
    ("analyze", "analysis", "norms attention similarity probe reconstruction lost all report"),
    ("convert", "convert", "import export inspect verify"),
    ("train", "train", "run eval pack sheet plan"),
):
    for arguments in (["--version"], ["--help"], *([name, "--help"] for name in commands.split())):
        sys.argv = [f"regvit-{tool}", *arguments]
        with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.suppress(SystemExit):
            getattr(regvit_jax, room).cli.main()
        assert sys.argv[0] in said.getvalue() or "regvit-jax 0" in said.getvalue(), sys.argv
        assert arguments != ["--help"] or "--version" in said.getvalue(), sys.argv
        assert not heavy & set(sys.modules), sys.argv
"""


def test_what_needs_no_jax_loads_none(tmp_path):
    """Importing the package, reading a checkpoint's facts, every help and version."""
    model = {"depth": 2, "embed_dim": 24, "num_heads": 3}
    others = {"source": {}, "class_names": [], "preprocess": {}, "metrics": {}}
    (tmp_path / "config.json").write_text(json.dumps({"format": 1, "model": model, **others}))
    done = subprocess.run(
        [sys.executable, "-c", QUIET, tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
