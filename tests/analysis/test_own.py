"""Can users add an analysis: one file for `regvit-analyze run`, or one folder for a command?"""

import csv
import importlib
import itertools
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from regvit_jax import load
from regvit_jax.analysis import questions
from regvit_jax.analysis.engine.results import RESULTS_FILE
from tests.analysis.conftest import call

NUM_IMAGES = 8
OWN = '''"""How long is the first token?"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from regvit_jax.analysis.engine.analysis import (
    Analysis, Drawn, Lead, Measured, Quantity, Table,
)
from regvit_jax.analysis.engine.question import Keep
from regvit_jax.analysis.options import ImageOptions
from regvit_jax.analysis.plotting import new_figure
from regvit_jax.analysis.statistics.bootstrap import Estimate


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthOptions(ImageOptions):
    """How long is the first token?"""

    scale: float = 1.0
    """What lengths are multiplied by."""


def keeps(subject, asked):
    def lengths(trace, layout):
        first = jnp.stack([block.tokens[:, 0] for block in trace.blocks], axis=1)
        return {"first": jnp.linalg.norm(first, axis=-1)}

    return {"lengths": Keep(("lengths",), asked.images, subject.preprocess, lengths)}


def measure(subject, kept, asked):
    rows = asked.options.scale * kept["lengths"].read("first")
    means = asked.bootstrap(len(rows)).resampled(rows, lambda means: means)
    numbers = {("lengths", str(i), "mean"): mean for i, mean in enumerate(means)}
    numbers["lengths", "0", "largest"] = Estimate(float(rows[:, 0].max()), len(rows))
    return Measured(len(rows), numbers, remarks=[f"{rows.shape[1]} blocks were measured."])


def figures(models, asked):
    axes = new_figure(5.0, 3.0, "Lengths").add_subplot()
    for model in models:
        axes.plot([0, 1], [model.estimates["lengths", b, "mean"].value for b in "01"])
    return [Drawn("lengths", "Lengths, drawn", "Of the first token.", axes.figure)]


ANALYSIS = Analysis(
    name="lengths",
    heading="Lengths of tokens",
    text="Is the first token long?",
    tables=[
        Table(
            "lengths",
            "Lengths by block",
            ("block",),
            {
                "mean": Quantity("mean length", is_compared=True),
                "largest": Quantity("largest length"),
            },
        )
    ],
    keeps=keeps,
    measure=measure,
    lead=lambda options: [Lead(("lengths", "0", "mean"), "length after block 0")],
    figures=figures,
    options=LengthOptions,
)
'''


def shared(checkpoints, pictures) -> tuple:
    """Options of all runs, without `--out`."""
    return (
        *("--checkpoint", checkpoints["plain"], checkpoints["registers"]),
        *("--data", pictures, "--num-images", NUM_IMAGES, "--bootstrap", 100),
    )


def read(folder: Path) -> dict:
    return json.loads((folder / RESULTS_FILE).read_text())


@pytest.fixture(scope="module")
def ran(tmp_path_factory, checkpoints, pictures):
    """The file of an analysis, and the folder of its results."""
    folder = tmp_path_factory.mktemp("own")
    file = folder / "lengths.py"
    file.write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        arguments = (*shared(checkpoints, pictures), "--scale", 2, "--out", folder / "out")
        assert call(patch, "run", file, *arguments) == 0
    return file, folder / "out"


def lengths_by_loop(checkpoint: Path, pictures: Path) -> np.ndarray:
    """Twice the length of the first token of every image after every block."""
    from regvit_jax.checkpoint import read_info
    from regvit_jax.data import open_source

    source = open_source(str(pictures), "val")
    chosen = np.sort(np.random.default_rng(0).choice(len(source), NUM_IMAGES, replace=False))
    preprocess = read_info(checkpoint).preprocess
    model, params = load(checkpoint)
    found = []
    for index in chosen.tolist():
        image = preprocess.normalise(preprocess.pixels(source[index].image)[None])
        trace = model.apply({"params": params}, image, method="trace")
        found.append([np.linalg.norm(np.float64(block.tokens[0, 0])) for block in trace.blocks])
    return 2 * np.array(found)


def test_an_analysis_of_one_file_has_numbers_tables_figures_and_comparisons(
    ran, checkpoints, pictures
):
    _, out = ran
    results = read(out)
    assert (results["format"], results["analysis"]) == (2, "lengths")
    assert results["about"]["heading"] == "Lengths of tokens"
    assert results["configuration"]["scale"] == 2
    assert results["data"]["num_images"] == NUM_IMAGES
    rows = {name: lengths_by_loop(checkpoints[name], pictures) for name in ("plain", "registers")}
    for model, expected in zip(results["models"], rows.values(), strict=True):
        # Float32 against float64 of numbers near 100, both networks in float32.
        for block, mean in enumerate(expected.mean(axis=0)):
            found = model["numbers"][f"lengths/{block}/mean"]
            assert found["value"] == pytest.approx(mean, rel=1e-5)
            assert found["interval"][0] < found["value"] < found["interval"][1]
        largest = model["numbers"]["lengths/0/largest"]
        assert largest["value"] == pytest.approx(expected[:, 0].max(), rel=1e-5)
        assert largest["interval"] is None
        assert model["remarks"] == ["3 blocks were measured."]

    (pair,) = results["comparisons"]
    assert sorted(pair["differences"]) == [f"lengths/{block}/mean" for block in range(3)]
    expected = (rows["registers"] - rows["plain"]).mean(axis=0)
    for block in range(3):
        value = pair["differences"][f"lengths/{block}/mean"]["value"]
        assert value == pytest.approx(expected[block], abs=1e-4 * rows["plain"].max())

    with (out / "lengths.csv").open() as file:
        table = list(csv.DictReader(file))
    labels = [model["label"] for model in results["models"]]
    assert [(row["model"], row["block"]) for row in table] == list(itertools.product(labels, "012"))
    means = np.concatenate([each.mean(axis=0) for each in rows.values()])
    for row, mean in zip(table, means, strict=True):
        assert float(row["mean"]) == pytest.approx(mean, rel=1e-5)
        assert (row["largest"] == "") == (row["block"] != "0")
    assert {"lengths.png", "lengths.svg", "comparisons.csv"} <= {x.name for x in out.iterdir()}


def test_compare_and_report_show_it(ran, monkeypatch, tmp_path, capsys):
    _, out = ran
    assert call(monkeypatch, "compare", "--results", out, "--out", tmp_path / "compared") == 0
    numbers = read(out)["models"][0]["numbers"]
    assert "lengths/0/mean" in (tmp_path / "compared" / "compare.csv").read_text()
    page = tmp_path / "page.html"
    assert call(monkeypatch, "report", "--results", out, tmp_path / "compared", "--out", page) == 0
    html = page.read_text()
    for text in ("<h2>Lengths of tokens</h2>", "Is the first token long?", "Lengths, drawn"):
        assert text in html
    mean = numbers["lengths/0/mean"]
    assert f"{mean['value']:.3f} [{mean['interval'][0]:.3f}" in html
    assert "3 blocks were measured." in html


def test_a_second_run_keeps_the_results_and_a_changed_file_is_refused(
    ran, monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    file, made = ran
    out, own = tmp_path / "out", tmp_path / "lengths.py"
    shutil.copytree(made, out)
    shutil.copy(file, own)  # where the file lies says nothing of what it holds
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    arguments = ("run", own, *shared(checkpoints, pictures), "--scale", 2, "--out", out)
    assert call(monkeypatch, *arguments) == 0
    captured = capsys.readouterr()
    assert "already there" in captured.err
    assert "length after block 0" in captured.out
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before

    own.write_text(OWN.replace("axis=-1)}", "axis=-1) + 1}"))
    assert call(monkeypatch, *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "another configuration" in error
    assert "analysis_file" in error
    values = {name: found["value"] for name, found in read(out)["models"][0]["numbers"].items()}
    assert call(monkeypatch, *arguments, "--overwrite") == 0
    for name, found in read(out)["models"][0]["numbers"].items():
        assert found["value"] == pytest.approx(values[name] + 2, rel=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x = 1\n", "defines 0 analyses"),
        (OWN + '\nOTHER = dataclasses.replace(ANALYSIS, name="other")\n', "defines 2 analyses"),
        ("def f(:\n", "SyntaxError"),
        (None, "There is no file"),
    ],
    ids=["none", "two", "syntax error", "missing"],
)
def test_a_file_without_one_analysis_ends_with_status_2_and_a_sentence(
    content, message, monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    file = tmp_path / "own.py"
    if content is not None:
        file.write_text(content)
    arguments = (*shared(checkpoints, pictures), "--out", tmp_path / "out")
    assert call(monkeypatch, "run", file, *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_help_of_a_file_lists_its_own_options(ran, monkeypatch, capsys):
    file, _ = ran
    assert call(monkeypatch, "run", file, "--help") == 0
    text = capsys.readouterr().out
    assert "--scale" in text
    assert "Is the first token long?" in text


def test_a_dry_run_of_a_file_says_what_it_takes_and_writes_nothing(
    ran, monkeypatch, tmp_path, checkpoints, pictures, capsys
):
    file, _ = ran
    arguments = (*shared(checkpoints, pictures), "--out", tmp_path / "out", "--dry-run")
    assert call(monkeypatch, "run", file, *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Pass 1 of 2", "Pass 2 of 2"]
    assert all("for lengths" in line for line in lines)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def added(tmp_path, monkeypatch):
    """The folder `lengths` among those of the tool's analyses; nothing else is told of it."""
    folder = tmp_path / "added" / "lengths"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""The analysis `lengths`."""\n')
    begin, end = OWN.index("@dataclasses.dataclass"), OWN.index("def keeps")
    options = "import dataclasses\n\nfrom regvit_jax.analysis.options import ImageOptions\n\n\n"
    (folder / "options.py").write_text(options + OWN[begin:end])
    named = f"from {questions.__name__}.lengths.options import LengthOptions\n\n\n"
    (folder / "question.py").write_text(OWN[:begin] + named + OWN[end:])
    monkeypatch.setattr(questions, "__path__", [*questions.__path__, str(folder.parent)])
    questions.known.cache_clear()
    importlib.invalidate_caches()
    yield
    questions.known.cache_clear()
    for name in [name for name in sys.modules if name.startswith(f"{questions.__name__}.lengths")]:
        del sys.modules[name]


@pytest.mark.usefixtures("added")
def test_a_folder_more_is_a_command_more(ran, monkeypatch, tmp_path, checkpoints, pictures, capsys):
    assert call(monkeypatch, "--help") == 0
    assert "How long is the first token?" in capsys.readouterr().out
    out = tmp_path / "out"
    arguments = (*shared(checkpoints, pictures), "--scale", 2, "--out", out)
    assert call(monkeypatch, "lengths", *arguments) == 0
    _, by_file = ran
    assert read(out)["models"] == read(by_file)["models"]
    assert read(out)["comparisons"] == read(by_file)["comparisons"]


@pytest.mark.usefixtures("added")
def test_a_folder_more_takes_part_in_all(monkeypatch, tmp_path, checkpoints, pictures):
    others = [name for name in questions.known() if name not in ("lengths", "similarity")]
    out = tmp_path / "all"
    arguments = (*shared(checkpoints, pictures), "--skip", *others, "--out", out)
    assert call(monkeypatch, "all", *arguments) == 0
    assert {"lengths", "similarity", "compare", "report.html"} <= {x.name for x in out.iterdir()}
    assert "<h2>Lengths of tokens</h2>" in (out / "report.html").read_text()
    assert "lengths/0/mean" in (out / "compare" / "compare.csv").read_text()
