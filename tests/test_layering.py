"""Do the packages depend on one another only as the design allows?"""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = "regvit_jax"
ROOMS = ("convert", "train", "analysis")
FOREIGN = {"torch", "torchvision", "timm"}


def imported(path: Path) -> Iterator[str]:
    """The full name of every module that a file imports from, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_packages(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def imported_rooms(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    return {name[1] for name in parts if name[0] == LIBRARY and len(name) > 1} & set(ROOMS)


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    if room == LIBRARY:
        found = [path for path in found if path.relative_to(ROOT).parts[1] not in ROOMS]
    assert found
    return found


@pytest.mark.parametrize("room", [LIBRARY, *ROOMS])
def test_a_room_imports_only_itself_and_the_library(room):
    for path in files(room):
        wrong = imported_rooms(path) - {room}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("room", [LIBRARY, *ROOMS])
def test_a_room_is_imported_by_its_installed_name(room):
    """`import train` would find a user's own `train.py`."""
    for path in files(room):
        wrong = imported_packages(path) & set(ROOMS)
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)} as a top-level module"


@pytest.mark.parametrize("room", [LIBRARY, "train", "analysis"])
def test_torch_is_imported_only_by_the_converter(room):
    for path in files(room):
        wrong = FOREIGN & imported_packages(path)
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_matplotlib_is_imported_only_by_plotting():
    for room in (LIBRARY, *ROOMS):
        for path in files(room):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if not {"plotting", "figures"} & set(parts):
                assert "matplotlib" not in imported_packages(path), path.relative_to(ROOT)


QUESTIONS = ROOT / "analysis" / "questions"
NOT_A_QUESTIONS = {"engine.results", "engine.written", "report"}
"""Modules of `analysis` that questions leave alone: how results are written and read."""


def question_folders() -> list[Path]:
    found = sorted(path.parent for path in QUESTIONS.glob("*/question.py"))
    assert len(found) >= 6
    return found


@pytest.mark.parametrize("folder", question_folders(), ids=lambda folder: folder.name)
def test_a_question_imports_no_other_question(folder):
    others = {other.name for other in question_folders()} - {folder.name}
    for path in sorted(folder.rglob("*.py")):
        names = {
            name.split(".")[3]
            for name in imported(path)
            if name.startswith(f"{LIBRARY}.analysis.questions.")
        }
        assert not names & others, f"{path.relative_to(ROOT)} imports {sorted(names & others)}"


@pytest.mark.parametrize("folder", question_folders(), ids=lambda folder: folder.name)
def test_a_question_knows_nothing_of_result_files_and_pages(folder):
    for path in sorted(folder.rglob("*.py")):
        place, tree = path.relative_to(ROOT), ast.parse(path.read_text())
        modules = {name.removeprefix(f"{LIBRARY}.analysis.") for name in imported(path)}
        for wrong in NOT_A_QUESTIONS:
            found = [name for name in modules if f"{name}.".startswith(f"{wrong}.")]
            assert not found, f"{place} imports {found}"
        texts = [node.value for node in said(tree) if isinstance(node.value, str)]
        for word in ("results.json", ".csv", "html"):
            assert not [text for text in texts if word in text.lower()], f"{place}: {word}"


def said(tree: ast.Module) -> list[ast.Constant]:
    """The constants of a file, without what stands there as a docstring."""
    lone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node for node in nodes if id(node) not in lone]


def loaded(path: Path, known: set[str]) -> set[str]:
    """The modules among the known ones that are loaded when a file is."""
    found: set[str] = set()
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in known else node.module)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += list(ast.iter_child_nodes(node))
    return found & known


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == LIBRARY else (LIBRARY, *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("room", [LIBRARY, *ROOMS])
def test_modules_do_not_import_one_another_in_a_circle(room):
    paths = {module_name(path): path for path in files(room)}
    imports = {name: loaded(path, set(paths)) for name, path in paths.items()}
    assert sum(map(len, imports.values())) > len(imports) / 2  # they were seen
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"A circle of imports: {' <- '.join(error.args[1])}")


def test_the_rooms_of_analysis_do_not_depend_on_one_another_in_a_circle():
    folder = ROOT / "analysis"
    rooms = {path.parent.name for path in folder.glob("*/__init__.py")}
    assert {"engine", "statistics", "outliers", "questions", "report"} <= rooms
    imports = {}
    for room in rooms:
        names = [name for path in (folder / room).rglob("*.py") for name in imported(path)]
        parts = [name.split(".") for name in names if name.startswith(f"{LIBRARY}.analysis.")]
        imports[room] = {part[2] for part in parts} & (rooms - {room})
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"Rooms that depend on one another: {' <- '.join(error.args[1])}")
