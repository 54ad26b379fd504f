"""Does whatever stands in results.json end in a page or in one sentence, and show no other file?"""

import copy
import json
import random
import shutil

import pytest

from regvit_jax.analysis.comparing.compare import (
    collect_models,
    collect_numbers,
    collect_pairs,
    open_folders,
)
from regvit_jax.analysis.engine.results_schema import (
    ANALYSIS,
    EXTRA,
    FILE,
    HEAD,
    MODEL,
    TOGETHER,
    Each,
    Maybe,
    Number,
)
from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.report.contents import collect
from regvit_jax.analysis.report.markdown import markdown
from regvit_jax.analysis.report.page import page
from regvit_jax.errors import InputError
from tests.analysis.test_report import PIXEL

WRONG = (
    None,
    True,
    3,
    -1.5,
    "text",
    [],
    {},
    [1],
    {"a": 1},
    [[None]],
    {"value": "x", "interval": 3},
)
TRIES = 20
REQUIRED = ("norms", "attention", "similarity", "lost", "probe", "reconstruction", "compare")


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """A folder with small results of every analysis that are in order."""
    folder = tmp_path_factory.mktemp("damaged")
    for name in REQUIRED:
        (folder / name).mkdir()
        (folder / name / "a.png").write_bytes(PIXEL)
        (folder / name / "results.json").write_text(json.dumps(example_results(name)))
    return folder


def example_results(name):
    """What the schema asks for, with numbers under the keys that are led with."""
    shape = TOGETHER if name == "compare" else ANALYSIS | EXTRA.get(name, {})
    results = example(HEAD) | example(shape) | {"format": 2, "analysis": name}
    results["comparisons"] = [example(HEAD["comparisons"][0]) | {"from": "m0", "to": "m1"}]
    extra = EXTRA.get(name, {}).get("models", [{}])[0]
    of_model = MODEL | (ANALYSIS["models"][0] if name != "compare" else {}) | extra
    results["models"] = [example(of_model) for _ in range(2)]
    for i, model in enumerate(results["models"]):
        model |= {"label": f"m{i}", "title": f"model {i}", "checkpoint": f"/m{i}"}
    for lead in results.get("lead", ()):
        for model in results["models"]:
            model["numbers"][lead["key"]] = example(Number())
    return results


def example(shape):
    """A value of a shape of the schema."""
    if isinstance(shape, Maybe):
        return example(shape.shape)
    if isinstance(shape, Each):
        return {"CLS": example(shape.shape), "text": example(shape.shape)}
    if isinstance(shape, Number):
        return {"value": 0.5, "n": 40, "interval": [0.4, 0.6]}
    if isinstance(shape, list):
        return [example(shape[0])]
    if isinstance(shape, dict):
        return {name.removesuffix("?"): example(part) for name, part in shape.items()}
    values = {str: "text", bool: False, int: 3, float: 0.5, dict: {}}
    return "a.png" if shape == FILE else values.get(shape, 1)


@pytest.mark.parametrize("name", REQUIRED)
def test_undamaged_results_are_read(name, analysed):
    read_all(analysed / name)


def read_all(folder):
    """What a report and a comparison read of a result folder."""
    options = ReportOptions(results=(folder,), out=folder / "report.html")
    contents = collect(options)
    page(contents)
    markdown(contents, folder, folder / "training.svg")
    if contents.sections[0].results["analysis"] != "compare":
        folders = open_folders((folder,))
        models = collect_models(folders)
        collect_numbers(folders, models)
        collect_pairs(folders, models)


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, each in items if isinstance(value, dict | list) else ():
        if isinstance(each, dict | list):
            yield from places(each, (*path, key))
        else:
            yield (*path, key)


def damaged(results, path, generator):
    """The results with one place removed, or filled with something of another type."""
    found = copy.deepcopy(results)
    inside = found
    for key in path[:-1]:
        inside = inside[key]
    wrong = generator.choice([*WRONG, "remove"])
    if wrong == "remove":
        del inside[path[-1]]
    else:
        inside[path[-1]] = wrong
    return found


@pytest.mark.parametrize("name", REQUIRED)
def test_any_damage_ends_in_a_page_or_in_one_sentence(name, analysed, tmp_path):
    generator = random.Random(name)
    folder = shutil.copytree(analysed / name, tmp_path / name)
    file = folder / "results.json"
    results = json.loads(file.read_text())
    every = [path for path in places(results) if path]
    near = [path for path in every if len(path) <= 3]
    refused = 0
    for path in [*generator.sample(near, min(TRIES, len(near))), *generator.sample(every, TRIES)]:
        file.write_text(json.dumps(damaged(results, path, generator)))
        try:
            read_all(folder)
        except InputError:
            refused += 1
    assert refused


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd", "link.png", "folder", "text.png"]
)
def test_a_figure_outside_the_result_folder_is_refused(name, analysed, tmp_path):
    folder = shutil.copytree(analysed / "lost", tmp_path / "a" / "lost")
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\nsecret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "folder").mkdir()
    (folder / "text.png").write_text("no picture")
    results = json.loads((folder / "results.json").read_text())
    results["figures"] = [{"file": name, "vector": "a.svg", "title": "t", "caption": "c"}]
    (folder / "results.json").write_text(json.dumps(results))
    with pytest.raises(InputError):
        read_all(folder)
