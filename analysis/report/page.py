"""How do results become one page, and a Markdown file beside it, whole or not at all?"""

import contextlib
import re
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup, escape

from regvit_jax.analysis.options import ReportOptions
from regvit_jax.analysis.report.contents import (
    CLAIMS,
    INTRODUCTION,
    METHODS,
    Contents,
    collect,
    plain_value,
)
from regvit_jax.analysis.report.markdown import markdown
from regvit_jax.analysis.templates import filled
from regvit_jax.errors import InputError
from regvit_jax.whole import appearing, remove_leftovers

MARKDOWN_SUFFIX = ".md"
NO_BREAK = "\N{NO-BREAK SPACE}"


def write_report(options: ReportOptions) -> None:
    """Writes the page and, beside it under the same name, the Markdown file.

    Raises:
      InputError: If a folder holds no results, or a run is none.
    """
    if not options.results:
        raise InputError("Name at least one result folder after --results.")
    if options.out.is_dir():
        raise InputError(f"{options.out} is a folder; --out names the HTML file.")
    if options.out.suffix == MARKDOWN_SUFFIX:
        raise InputError(
            f"--out names the HTML file; the Markdown file is written beside it. Instead of "
            f"{options.out.name}, write {options.out.with_suffix('.html').name}."
        )
    contents = collect(options)
    files = {options.out: page(contents).encode(errors="backslashreplace")}
    if contents.training is not None:
        files[_training_file(options.out)] = contents.training.content
    text = markdown(contents, options.out.parent, _training_file(options.out))
    files[options.out.with_suffix(MARKDOWN_SUFFIX)] = text.encode(errors="backslashreplace")
    _write_all(files)


def page(contents: Contents) -> str:
    """The report as HTML that needs no other file and no network."""
    values = {"report": contents, "introduction": INTRODUCTION, "methods": METHODS}
    filters = {"code": _code, "plain": plain_value, "unbroken": _unbroken}
    return filled("report", values | {"about_claims": CLAIMS}, filters)


def _code(text: str) -> Markup:
    """Text whose parts in backticks are code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    pieces = [
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part)
        for i, part in enumerate(parts)
    ]
    return Markup("").join(pieces)


def _unbroken(text: str) -> str:
    """Text whose numbers stay together on a line: intervals, counts and units."""
    joined = re.sub(r"(?<=, n) (?=\d)|(?<=[\d\]]) (?=%)", NO_BREAK, text)
    return re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", NO_BREAK), joined)


def _training_file(out: Path) -> Path:
    """Where the drawing of the training lies that Markdown refers to."""
    return out.with_name(f"{out.stem}_training.svg")


def _write_all(files: Mapping[Path, bytes]) -> None:
    """Writes every file beside its place, then moves them there; the page comes last."""
    for folder in {path.parent for path in files}:
        remove_leftovers(folder)
    with contextlib.ExitStack() as stack:
        for path, content in files.items():
            stack.enter_context(appearing(path, replace=True)).write_bytes(content)
