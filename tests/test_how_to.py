"""Do the tasks of the how-to page take five lines, and run?"""

import functools
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import regvit_jax
from regvit_jax.analysis.look.notebook import TokenNorms
from regvit_jax.model import DeiT3
from regvit_jax.shapes import shapes

PAGE = Path(__file__).parents[1] / "docs" / "how-to.md"
TASKS = re.findall(r"^## ([^\n]*)\n.*?^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


@pytest.fixture
def photo(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    apply = DeiT3.apply

    def compiled(model, variables, images, **options):
        """One program in the place of thousands of single operations."""
        return jax.jit(lambda v, x: apply(model, v, x, **options))(variables, images)

    monkeypatch.setattr(DeiT3, "apply", compiled)


def test_there_are_six_tasks():
    assert len(TASKS) == 6


@pytest.mark.parametrize(("task", "code"), TASKS, ids=[task for task, _ in TASKS])
def test_a_task_takes_five_lines_and_runs(task, code, photo, request, monkeypatch):
    if "timm" in code:
        timm = request.getfixturevalue("timm")
        shallow = functools.partial(timm.create_model, depth=2)
        monkeypatch.setattr(timm, "create_model", shallow)
    assert len([line for line in code.splitlines() if line.strip()]) <= 5, task
    names: dict = {}
    exec(compile(code, task, "exec"), names)
    if "savefig" in code:
        (written,) = Path().glob("*.png")
        assert written.stat().st_size > 1000
    if "cls" in names:
        assert names["cls"].shape == (1, 32)
        assert names["patches"].shape == (1, 36, 32)


def test_a_printed_trace_is_its_shapes(photo):
    model, params = regvit_jax.load("organism-reg4")
    images = regvit_jax.load_images("photo.jpg", "organism-reg4")
    text = repr(model.apply({"params": params}, images, layers=[0, 1], method="trace"))
    assert text.startswith("ViTTrace(\n  patch_embed: float32 (1, 36, 32)\n")
    assert "blocks: 2 x BlockTrace(\n    query: float32 (1, 4, 41, 8)\n" in text
    assert "  ), None\n  normed: float32 (1, 41, 32)\n" in text
    assert len(text) < 700


def test_fields_that_are_none_are_printed_as_such():
    text = shapes(TokenNorms(None, np.zeros((1, 4, 2)), np.zeros((1, 4, 3, 3))))
    lines = ("cls: None", "registers: float64 (1, 4, 2)", "patches: float64 (1, 4, 3, 3)")
    assert text == "TokenNorms(\n" + "".join(f"  {line}\n" for line in lines) + ")"
