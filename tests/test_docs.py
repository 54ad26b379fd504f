"""Is what the documentation says still so? Commands, options, links, examples, the site."""

import contextlib
import dataclasses
import functools
import io
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro
import yaml
from PIL import Image

from regvit_jax import DeiT3, ViTConfig, load, save
from regvit_jax.analysis import cli as analysis_cli
from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.questions import analysis_of, known
from regvit_jax.analysis.report.page import write_report
from regvit_jax.checkpoint import CheckpointInfo, parameter_shapes, unflatten
from regvit_jax.data import open_source
from regvit_jax.preprocess import Preprocess
from regvit_jax.train.presets import PRESETS, preset

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
COMMANDS = ("regvit-convert", "regvit-train", "regvit-analyze")
ELLIPSIS = {"--out": "runs/x"}
"""What a command needs that a page leaves out with "..."."""


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\b[^\n]*\n(.*?)^```", page.read_text(), re.M | re.S)


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


def command_lines() -> list[tuple[str, str, list[str]]]:
    """Page, command and arguments of every command in a block of shell code."""
    found = []
    for page in PAGES:
        for block in code_blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                places = [i for i, word in enumerate(words) if Path(word).name in COMMANDS]
                for place in places[:1]:
                    command = Path(words[place]).name
                    found.append((name_of(page), command, words[place + 1 :]))
    return found


@pytest.fixture
def parse(monkeypatch):
    """Parses a command line with the command's own parser; nothing is run, no file is read."""

    def analyse(arguments):
        with monkeypatch.context() as patch:
            patch.setattr(analysis_cli, "_dispatch", lambda name, options: [])
            analysis_cli._answer(arguments)

    def convert(arguments):
        from regvit_jax.convert import cli

        with monkeypatch.context() as patch:
            for command in (cli.Import, cli.Export, cli.Inspect, cli.Verify, cli.Families):
                patch.setattr(command, "__call__", lambda self: None)
            patch.setattr(sys, "argv", ["regvit-convert", *arguments])
            cli._main()

    def train(arguments):
        from regvit_jax import checkpoint
        from regvit_jax.train import cli

        def idle(command):
            return functools.wraps(command)(lambda *args, **options: None)

        dispatch = tyro.extras.subcommand_cli_from_dict
        with monkeypatch.context() as patch:
            patch.setattr(
                tyro.extras,
                "subcommand_cli_from_dict",
                lambda commands, **options: dispatch(
                    {name: idle(command) for name, command in commands.items()}, **options
                ),
            )
            patch.setattr(checkpoint, "read_info", lambda path: CheckpointInfo(ViTConfig()))
            patch.setattr(sys, "argv", ["regvit-train", *arguments])
            cli._main()

    parsers = {"regvit-convert": convert, "regvit-train": train, "regvit-analyze": analyse}

    def run(command, arguments):
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            try:
                parsers[command](arguments)
            except SystemExit as stop:
                return stop.code or 0, output.getvalue()
        return 0, output.getvalue()

    return run


def test_every_command_line_on_a_page_parses(parse):
    lines = command_lines()
    assert {command for _, command, _ in lines} == set(COMMANDS)
    for page, command, arguments in lines:
        if "..." in arguments:
            left_out = [x for name, value in ELLIPSIS.items() for x in (name, value)]
            arguments = [x for x in arguments if x != "..."]
            arguments += left_out if "--out" not in arguments else []
        status, output = parse(command, arguments)
        assert status == 0, f"{page}: {command} {shlex.join(arguments)}\n{output}"


def test_every_option_in_a_sentence_exists(parse):
    """`--option` anywhere, and `command subcommand --option` of that subcommand."""
    options = {}
    for command in COMMANDS:
        usage = parse(command, ["--help"])[1].replace("\n", "").replace(" ", "")
        (names,) = set(re.findall(r"\{([a-z,]+)\}", usage))
        for name in names.split(","):
            status, text = parse(command, [name, "--help"])
            assert status == 0
            options[command, name] = set(re.findall(r"--[a-z][a-z0-9-]*", text))
    others = {"--help", "--signal"}  # the second is Slurm's
    any_of_them = set().union(*options.values()) | others
    for page in PAGES:
        for code in re.findall(r"`([^`\n]+)`", prose(page)):
            if code.startswith("python -m benchmarks."):  # has options of its own
                continue
            called = re.search(r"(regvit-[a-z]+)( .*)?", code)
            ours = code if called is None else called[2] or ""
            mentioned = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", ours))
            allowed, words = any_of_them, ours.split()
            if called is not None and words and not words[0].startswith("-"):
                assert (called[1], words[0]) in options, f"{name_of(page)}: {code}"
                allowed = options[called[1], words[0]] | others
            assert mentioned <= allowed, f"{name_of(page)}: {code}"


def test_every_target_of_make_that_is_named_exists():
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        code = "\n".join(code_blocks(page, "sh") + re.findall(r"`([^`\n]+)`", prose(page)))
        for target in re.findall(r"(?:^|[\s(])make ([a-z][a-z-]*)", code, re.M):
            assert target in targets, f"{name_of(page)}: make {target}"


def test_every_link_and_picture_in_the_project_is_there():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
            if not re.match(r"[a-z]+:|#", link):
                assert (page.parent / link.split("#")[0]).exists(), f"{name_of(page)}: {link}"


def test_every_key_of_results_that_is_described_is_written_somewhere():
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "analysis").rglob("*.py")))
    words = set(re.findall(r"\w+", sources))
    page = ROOT / "docs" / "analyse.md"
    for code in re.findall(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`", prose(page)):
        assert code in words, code


def test_every_table_of_numbers_is_described_and_there_are_no_others():
    """`outliers/` begins the keys of a table's numbers."""
    page = prose(ROOT / "docs" / "analyse.md")
    described = set(re.findall(r"`([a-z_]+)/`", page))
    tables = {table.name for name in known() for table in analysis_of(name).tables}
    assert described - {"mcnemar"} == tables
    for name in known():
        for table in analysis_of(name).tables:
            place = page.index(f"`{table.name}/`")
            section = page.rindex("\n## ", 0, place)
            assert page[section:].startswith(f"\n## {name}\n"), table.name


def test_the_table_of_presets_says_what_they_are():
    page = (ROOT / "docs" / "train.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| `")]
    found = {row[0].strip("`"): row for row in rows if row[0].strip("`") in PRESETS}
    assert set(found) == set(PRESETS)
    losses = {"bce": "binary cross-entropy", "cross_entropy": "cross-entropy"}
    for name, (_, model, _, optimiser, batch, epochs, loss) in found.items():
        recipe = preset(name)
        assert recipe.optim.optimizer in optimiser.lower(), name
        rates = map(float, re.findall(r"\d+e-\d+", optimiser))
        assert recipe.optim.learning_rate in rates, name
        assert (recipe.data.batch_size, recipe.epochs) == (int(batch), float(epochs)), name
        assert loss.startswith(losses[recipe.loss]), name
        assert ("smoothed" in loss) == (recipe.label_smoothing > 0), name
        if "wide" in model:
            sizes = (recipe.model.embed_dim, recipe.model.depth, recipe.model.patch_size)
            assert sizes == tuple(map(int, re.findall(r"\d+", model))), name


def save_tiny(folder: Path, num_registers: int, **changes) -> ViTConfig:
    """A checkpoint with random weights; the configuration, whose depth is two unless changed."""
    config = ViTConfig(
        embed_dim=24, depth=2, num_heads=3, patch_size=8, image_size=64, num_classes=10
    )
    config = dataclasses.replace(config, num_registers=num_registers, **changes)
    generator = np.random.default_rng(num_registers)
    params = {
        name: generator.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in parameter_shapes(config).items()
    }
    info = CheckpointInfo(config, preprocess=Preprocess.square(config.image_size))
    save(folder, unflatten(params), info)
    return config


def test_the_analysis_in_40_lines_computes_what_plain_loops_do(tmp_path, monkeypatch, capsys):
    code = code_blocks(ROOT / "docs" / "extend.md", "python")[0]
    assert len(code.splitlines()) <= 40
    assert max(map(len, code.splitlines())) <= 100
    script, out = tmp_path / "alikeness.py", tmp_path / "results"
    script.write_text(code)
    folders = [tmp_path / "reg0", tmp_path / "reg4"]
    for folder, num_registers in zip(folders, (0, 4), strict=True):
        save_tiny(folder, num_registers)
    arguments = ["--checkpoint", *map(str, folders), "--data", "digits", "--num-images", "8"]
    monkeypatch.setattr(
        sys, "argv", ["regvit-analyze", "run", str(script), *arguments, "--out", str(out)]
    )
    analysis_cli.main()

    results = json.loads((out / "results.json").read_text())
    assert results["data"]["num_images"] == 8
    assert (out / "alikeness.png").is_file()
    source = open_source("digits", "val")
    chosen = np.sort(np.random.default_rng(0).choice(len(source), 8, replace=False))
    pixels = np.stack([Preprocess.square(64).pixels(source[i].image) for i in chosen.tolist()])
    images = Preprocess.square(64).normalise(pixels)
    assert [model["num_registers"] for model in results["models"]] == [0, 4]
    network, params = load(folders[1])
    run = jax.jit(lambda p, x: network.apply({"params": p}, x, method="trace"))
    trace = run(params, images)
    patches = network.layout(images.shape).patches
    numbers = results["models"][1]["numbers"]
    assert list(numbers) == ["alikeness/1/cosine", "alikeness/last/cosine"]
    for block, found in zip(trace.blocks, numbers.values(), strict=True):
        tokens = np.asarray(block.tokens[:, patches], np.float64)
        expected = np.mean([mean_cosine(image) for image in tokens])
        # Float32 against float64: 3e-8 was measured.
        np.testing.assert_allclose(found["value"], expected, rtol=0, atol=5e-7)
        assert found["n"] == 8
        assert found["interval"][0] < found["value"] < found["interval"][1]

    (pair,) = results["comparisons"]
    (first, second) = (model["numbers"]["alikeness/last/cosine"] for model in results["models"])
    difference = pair["differences"]["alikeness/last/cosine"]
    assert difference["value"] == pytest.approx(second["value"] - first["value"])
    assert difference["interval"][0] < difference["value"] < difference["interval"][1]
    printed = capsys.readouterr().out
    assert f"patches' cosine, last block {second['value']:.3f} [" in printed

    page = tmp_path / "alikeness.html"
    write_report(ReportOptions(results=(out,), out=page))
    assert "<h2>Alikeness of patches</h2>" in page.read_text()


def mean_cosine(vectors: np.ndarray) -> float:
    """Mean over all pairs, one after the other."""
    pairs = itertools.combinations(vectors, 2)
    return float(np.mean([a @ b / (np.linalg.norm(a) * np.linalg.norm(b)) for a, b in pairs]))


def test_the_examples_in_python_run(tmp_path, monkeypatch):
    """With a narrow model in the place of DeiT-III Small; the rest is as they say."""
    pages = ("README.md", "docs/index.md", "docs/convert.md", "docs/extend.md")
    save_tiny(tmp_path / "checkpoints" / "deit3-small", 4, image_size=224, patch_size=16, depth=12)
    for name in ("cat.jpg", "dog.jpg"):
        Image.new("RGB", (320, 240)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    apply = DeiT3.apply

    def compiled(model, variables, images, **options):
        """One program in the place of thousands of single operations: a tenth of the time."""
        return jax.jit(functools.partial(apply, model, **options))(variables, images)

    monkeypatch.setattr(DeiT3, "apply", compiled)
    for page in pages:
        blocks = code_blocks(ROOT / page, "python")[page == "docs/extend.md" :]
        assert blocks, page
        for block in blocks:
            names: dict = {}
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, page, "exec"), names)
            if "cls_map" in names:
                assert names["cls_map"].shape == (2, 3, 1, 196)


def test_what_is_cited_is_complete():
    """CFF 1.2.0 asks for these; version and licence are pyproject.toml's."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    for reference in citation["references"]:
        assert {"type", "title", "authors", "year", "url"} <= reference.keys()
        assert all({"family-names", "name"} & person.keys() for person in reference["authors"])
    study, registers = (reference["title"] for reference in citation["references"])
    assert study.startswith("Registers in Small Vision Transformers")
    assert registers == "Vision Transformers Need Registers"


class Fetched(HTMLParser):
    """What a browser loads by itself with a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio"):
            self.addresses += [values[name] for name in ("src", "srcset") if values.get(name)]
        if tag == "link" and values.get("rel") not in ("canonical", "prev", "next"):
            self.addresses.append(values["href"])


def test_the_table_of_models_is_the_one_that_the_command_prints():
    from regvit_jax.convert.families import to_markdown

    table = (ROOT / "docs" / "models.md").read_text().partition("<!-- made by")[2]
    assert table.partition("-->\n\n")[2] == to_markdown()


def test_the_site_builds_without_warnings_and_loads_nothing_from_elsewhere(tmp_path):
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mkdocs", "build", "--strict", "-d", str(site)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = sorted(site.rglob("*.html"))
    assert len(pages) >= len(list((ROOT / "docs").rglob("*.md")))
    for page in pages:
        fetched = Fetched()
        fetched.feed(page.read_text())
        outside = [x for x in fetched.addresses if re.match(r"([a-z]+:)?//", x)]
        assert not outside, f"{page.name}: {outside}"
    for style in site.rglob("*.css"):
        assert not re.search(r"url\((?!data:)[\"']?(https?:)?//", style.read_text()), style.name
    for page, name in (
        ("regvit_jax", "regvit_jax.model.DeiT3.trace"),
        ("analysis", "regvit_jax.analysis.engine.extract.extract"),
        ("train", "regvit_jax.train.loop.train"),
    ):
        assert f'id="{name}"' in (site / "api" / f"{page}.html").read_text(), name
