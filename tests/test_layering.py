"""Do the packages depend on one another only as the design allows?"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = "regvit_jax"
PACKAGES = (LIBRARY, "convert", "train", "analysis")


def imported_packages(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def files(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_itself_and_the_library(package):
    forbidden = set(PACKAGES) - {LIBRARY, package}
    for path in files(package):
        wrong = forbidden & set(imported_packages(path))
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("package", PACKAGES)
def test_torch_is_imported_only_by_the_converter(package):
    if package != "convert":
        for path in files(package):
            wrong = {"torch", "torchvision", "timm"} & set(imported_packages(path))
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_matplotlib_is_imported_only_by_plotting():
    for package in PACKAGES:
        for path in files(package):
            if "plotting" not in path.relative_to(ROOT).parts:
                assert "matplotlib" not in set(imported_packages(path)), path.relative_to(ROOT)
