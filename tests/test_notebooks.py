"""Do the notebooks run, do their claims hold, and do page and notebook say the same?"""

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.md"))


@pytest.fixture(scope="module")
def pair():
    """The script that runs pages."""
    spec = importlib.util.spec_from_file_location("pair", FOLDER / "pair.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pair"] = module
    spec.loader.exec_module(module)
    return module


def masked(text: str) -> list[str]:
    """The words of some output; numbers, which differ from machine to machine, all alike."""
    return re.sub(r"[-+]?\d[\d.,]*(e[-+]?\d+)?", "#", text).split()


@pytest.mark.parametrize("name", NAMES)
def test_page_and_notebook_say_the_same(pair, name):
    cells = list(pair.read_cells((FOLDER / f"{name}.md").read_text()))
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    drawn = 0
    for cell, other in zip(cells, notebook["cells"], strict=True):
        assert "".join(other["source"]) == cell.source
        assert other["cell_type"] == ("code" if cell.is_code else "markdown")
        outputs = {output["output_type"]: output for output in other.get("outputs", [])}
        assert "".join(outputs.get("stream", {}).get("text", [])) == cell.text
        if picture := outputs.get("display_data"):
            assert cell.title
            file = (FOLDER / f"{name}_{drawn}.png").read_bytes()
            assert base64.b64decode(picture["data"]["image/png"]) == file
            drawn += 1
    assert drawn == len(list(FOLDER.glob(f"{name}_[0-9]*.png")))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_runs_without_warnings_and_its_claims_hold(pair, name):
    """What a block claims, it asserts itself; what it prints has the words that stand below it."""
    if name == "convert_and_verify" and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    settings = {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(ROOT / ".pytest_cache" / "xla"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.3",
    }
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | settings
    command = [sys.executable, "-W", "error", str(FOLDER / "pair.py"), name, "--check"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = pair.read_cells((FOLDER / f"{name}.md").read_text())
    assert masked(done.stdout) == masked("".join(cell.text for cell in cells))
