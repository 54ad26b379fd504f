"""Is what users install what we wrote, and does help come at once?"""

import shutil
import statistics
import subprocess
import sys
import time
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = ("regvit-convert", "regvit-train", "regvit-analyze")
PACKAGES = ("regvit_jax", "convert", "train", "analysis")
HELP_SECONDS = 0.7


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_the_wheel_holds_the_four_packages_and_nothing_else(tmp_path):
    copy = tmp_path / "copy"  # building in the checkout would leave its folders there
    for name in ("pyproject.toml", "README.md", "LICENSE", "tests", "benchmarks", *PACKAGES):
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, _made(copy) / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*command, "-w", str(tmp_path), str(copy)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names}
    assert {name for name in top_level if not name.endswith(".dist-info")} == set(PACKAGES)
    templates = sorted(path.name for path in (ROOT / "analysis").rglob("*.jinja"))
    assert templates == sorted(Path(name).name for name in names if name.endswith(".jinja"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_answers_without_loading_the_heavy_libraries(command):
    """No JAX, Flax, Orbax, torch or matplotlib; the median of five calls is under 0.7 s."""
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
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0, done.stderr
        assert done.stderr.strip() == "[]"
        assert "usage" in done.stdout
    assert statistics.median(seconds) < 2 * HELP_SECONDS  # twice: the machine may be busy
