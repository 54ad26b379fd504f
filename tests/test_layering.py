"""Do the packages depend on one another only as the design allows?"""

import ast
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
