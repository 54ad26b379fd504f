"""How do a page and a notebook stay the same? The page is the source; running it writes both.

`python docs/notebooks/pair.py look_inside` runs the Python blocks of `look_inside.md` in order,
writes what they print and draw back into the page, and the same as `look_inside.ipynb`, with
outputs. No Jupyter is needed. A figure is what a block's last line evaluates to.
"""

import argparse
import ast
import base64
import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

FOLDER = Path(__file__).resolve().parent
DPI = 110
_BLOCK = re.compile(
    r"^```python\n(?P<code>.*?)^```\n(\n```text\n(?P<text>.*?)^```\n)?"
    r"(\n!\[(?P<title>[^\]]*)\]\([^)]*\)\n)?",
    re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass
class Cell:
    """Some prose, or some code with what it printed and drew."""

    source: str
    is_code: bool = False
    text: str = ""
    title: str = ""
    """What the figure shows, in words."""
    figure: bytes = b""
    """A PNG file."""


def read_cells(page: str) -> Iterator[Cell]:
    """The cells of a page, in order."""
    end = 0
    for match in _BLOCK.finditer(page):
        if prose := page[end : match.start()].strip():
            yield Cell(prose)
        yield Cell(match["code"].rstrip(), True, match["text"] or "", match["title"] or "")
        end = match.end()
    if prose := page[end:].strip():
        yield Cell(prose)


def run(cells: list[Cell]) -> dict[str, Any]:
    """Runs the code in one namespace, keeps what it prints and draws; returns the namespace."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        if cell.is_code:
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                last = _execute(cell.source, f"<cell {number}>", names)
            cell.text = printed.getvalue()
            if isinstance(last, Figure):
                file = io.BytesIO()
                last.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
                cell.figure = file.getvalue()
    return names


def to_page(cells: list[Cell], name: str) -> str:
    """The page with its outputs."""
    parts, drawn = [], 0
    for cell in cells:
        parts.append(f"```python\n{cell.source}\n```" if cell.is_code else cell.source)
        if cell.text:
            parts.append(f"```text\n{cell.text}```")
        if cell.figure:
            parts.append(f"![{cell.title or 'Figure'}]({name}_{drawn}.png)")
            drawn += 1
    return "\n\n".join(parts) + "\n"


def to_notebook(cells: list[Cell]) -> str:
    """The notebook with its outputs, in version 4.5 of the format."""
    notebook = {
        "cells": [_cell_json(cell) for cell in cells],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _execute(source: str, label: str, names: dict[str, Any]) -> Any:
    """Runs a block; what its last line is, where that is an expression."""
    tree = ast.parse(source, label)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, label, "exec"), names)
    return eval(compile(ast.Expression(last.value), label, "eval"), names) if last else None


def _cell_json(cell: Cell) -> dict[str, Any]:
    kind = "code" if cell.is_code else "markdown"
    head = {
        "id": hashlib.sha256(cell.source.encode()).hexdigest()[:8],
        "cell_type": kind,
        "metadata": {},
        "source": cell.source.splitlines(keepends=True),
    }
    if not cell.is_code:
        return head
    outputs: list[dict[str, Any]] = []
    if cell.text:
        lines = cell.text.splitlines(keepends=True)
        outputs.append({"output_type": "stream", "name": "stdout", "text": lines})
    if cell.figure:
        data = {"image/png": base64.b64encode(cell.figure).decode()}
        outputs.append({"output_type": "display_data", "metadata": {}, "data": data})
    return head | {"execution_count": None, "outputs": outputs}


def main() -> None:
    """Runs a page, and writes page, figures and notebook."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the page, without .md")
    parser.add_argument("--check", action="store_true", help="run it, show what it prints")
    options = parser.parse_args()
    path = FOLDER / f"{options.name}.md"
    cells = list(read_cells(path.read_text()))
    os.chdir(FOLDER)  # where Jupyter runs a notebook
    run(cells)
    if options.check:
        sys.stdout.write("".join(cell.text for cell in cells))
        return
    for number, cell in enumerate(cell for cell in cells if cell.figure):
        (FOLDER / f"{options.name}_{number}.png").write_bytes(cell.figure)
    path.write_text(to_page(cells, options.name))
    path.with_suffix(".ipynb").write_text(to_notebook(cells))


if __name__ == "__main__":
    main()
