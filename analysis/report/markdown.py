"""How does a report read as Markdown, for a paper or a repository?

Tables are GitHub's. Figures are not copied: they are referred to where they lie, in the result
folders, relative to the Markdown file; it moves together with them.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from regvit_jax.analysis.claims.judgement import Judgement
from regvit_jax.analysis.report.contents import (
    CLAIMS,
    INTRODUCTION,
    METHODS,
    Contents,
    Picture,
    Section,
    plain_value,
)
from regvit_jax.analysis.report.tables import MISSING, Table

# A bracket is only special before a parenthesis, an underscore at the edge of a word.
_SPECIAL = re.compile(r"[*|<~$&]|\](?=\()|(?<!\w)_|_(?!\w)|^[#>+-](?=\s)|\\(?!`)")
_SPECIAL_IN_BRACKETS = re.compile(rf"[\[\]]|{_SPECIAL.pattern}")
_CLAIM_COLUMNS = ("", "claim", "published", "here", "verdict", "why")


def markdown(contents: Contents, folder: Path, training_file: Path) -> str:
    """The report as Markdown.

    Args:
      contents: What stands in it.
      folder: Where the file will lie.
      training_file: The drawing of the training, if there is one.
    """
    parts = [f"# {_escaped(contents.title)}", *map(_escaped, contents.answer)]
    if contents.opening is not None and contents.opening.path is not None:
        parts.append(_figure(contents.opening, contents.opening.path, folder))
    parts += [_escaped(INTRODUCTION), "## Models"]
    parts += _table(contents.models, heading=False)
    parts += _claims(contents)
    if contents.training is not None:
        parts += ["## Training", _figure(contents.training, training_file, folder)]
    for section in contents.sections:
        parts += _section(section, folder)
    parts += ["## Methods", _escaped(METHODS)]
    parts += map(_escaped, contents.assumptions)
    for title, facts in contents.model_facts.items():
        parts += [f"### Model {_escaped(title)}", _facts(facts)]
    for section in contents.sections:
        parts += _configuration(section)
    parts += ["## Caveats", *map(_escaped, contents.caveats)]
    parts += ["## Citation", f"```bibtex\n{contents.citations}\n```"]
    return "\n\n".join(parts) + "\n"


def _claims(contents: Contents) -> list[str]:
    judged = [_claim_row(judgement) for judgement in contents.judged]
    others = [_claim_row(judgement) for judgement in contents.unjudged]
    rules = [
        f"- Claim {judgement.claim.number}: {_escaped(judgement.claim.rule)}"
        for judgement in contents.judgements
        if judgement.claim.judge
    ]
    return [
        "## The study's claims",
        _escaped(CLAIMS),
        _escaped(contents.tally),
        _grid(_CLAIM_COLUMNS, judged),
        "<details><summary>What no rule can judge</summary>",
        _grid(_CLAIM_COLUMNS, others),
        "</details>",
        "### The rules",
        "\n".join(rules),
    ]


def _claim_row(judgement: Judgement) -> tuple[str, ...]:
    claim = judgement.claim
    about = f"<br>{_escaped(judgement.about)}" if judgement.about else ""
    return (
        str(claim.number),
        _escaped(claim.words),
        f"{_escaped(claim.published)}<br>({_escaped(claim.where)})",
        "<br>".join(map(_escaped, judgement.numbers)) or MISSING,
        f"**{judgement.answer}**{about}",
        _escaped(judgement.why),
    )


def _section(section: Section, folder: Path) -> Iterator[str]:
    yield f"## {_escaped(section.heading)}"
    if section.text:
        yield _escaped(section.text)
    yield _escaped(section.note)
    if section.verdicts:
        yield f"### {_escaped(section.asks)}?"
        yield "\n".join(
            f"- {_escaped(v.model)}: **{_escaped(v.answer)}**. {_escaped(v.reason)}"
            for v in section.verdicts
        )
    for table in section.tables:
        yield from _table(table)
    yield from map(_escaped, section.remarks)
    for picture in section.pictures:
        yield _figure(picture, picture.path, folder)
    if section.gallery:
        yield "### Image by image"
    for picture in section.gallery:
        yield _figure(picture, picture.path, folder)


def _configuration(section: Section) -> Iterator[str]:
    results = section.results
    yield f"### {_escaped(section.heading)}: configuration and versions"
    preprocessing = {f"preprocessing, {name}": v for name, v in section.preprocessing.items()}
    yield _facts(results["configuration"] | preprocessing | {"versions": results["versions"]})


def _facts(values: Mapping[str, Any]) -> str:
    return "\n".join(
        f"- {_escaped(name)}: {_escaped(plain_value(value))}" for name, value in values.items()
    )


def _table(table: Table, heading: bool = True) -> Iterator[str]:
    if heading:
        yield f"### {_escaped(table.title)}"
    rows = [tuple(map(_escaped, row)) for row in table.rows]
    yield _grid(tuple(map(_escaped, table.columns)), rows)
    if table.note:
        yield _escaped(table.note)


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of GitHub's Markdown; cells are escaped already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figure(picture: Picture, path: Path | None, folder: Path) -> str:
    assert path is not None
    place = quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix())
    title = _escaped(picture.title, _SPECIAL_IN_BRACKETS)
    return f"![{title}]({place})\n\n*{_escaped(picture.sentence.strip())}*"


def _escaped(text: str, special: re.Pattern[str] = _SPECIAL) -> str:
    """Text that Markdown shows as it is; code in backticks stays code."""
    parts = re.sub(r"\s+", " ", text).split("`")
    if len(parts) % 2 == 0:
        return special.sub(r"\\\g<0>", "\\`".join(parts))
    return "`".join(
        part.replace("|", "\\|") if i % 2 else special.sub(r"\\\g<0>", part)
        for i, part in enumerate(parts)
    )
