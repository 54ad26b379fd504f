"""Which models can be imported? One table, for the terminal and for the documentation."""

import typing
from collections.abc import Iterator

from regvit_jax.convert.dialects import DIALECTS, ExportFamily
from regvit_jax.convert.published import PUBLISHED, Published
from regvit_jax.convert.references import library_of
from regvit_jax.shipped import MODELS

_HEADER = ("family", "models", "registers", "published at", "licence", "export", "verified with")


def to_markdown() -> str:
    """The table of the documentation, and a command for each family."""
    rows = [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    for item in PUBLISHED:
        family, models, *rest = _cells(item)
        rows.append(f"| `{family}` | {models.replace('*', chr(92) + '*')} | {' | '.join(rest)} |")
    commands = [f"regvit-convert import {c} checkpoints/{n}" for n, c in _commands()]
    return "\n".join([*rows, "", "```sh", *commands, "```", ""])


def to_text() -> str:
    """One paragraph a family, and the models that need no import."""
    commands = dict(_commands())
    parts = []
    for item in PUBLISHED:
        cells = dict(zip(_HEADER, _cells(item), strict=True))
        family = cells.pop("family")
        lines = [f"{family}: {DIALECTS[family].title}"]
        lines += [f"  {name:14} {value}" for name, value in cells.items()]
        lines.append(f"  {'command':14} regvit-convert import {commands[family]} {family}")
        parts.append("\n".join(lines))
    shipped = [f"  {name:14} {what}" for name, what in MODELS.items()]
    parts.append("\n".join(["Come with regvit_jax, to be named as they are:", *shipped]))
    return "\n".join(parts) + "\n"


def _commands() -> Iterator[tuple[str, str]]:
    """Family and what stands behind `import`: source and options."""
    for item in PUBLISHED:
        yield item.family, item.source


def _cells(item: Published) -> tuple[str, ...]:
    exported = item.family in typing.get_args(ExportFamily)
    library = library_of(item.family)
    return (
        item.family,
        item.models,
        item.registers,
        item.where,
        item.licence,
        "yes" if exported else "no",
        f"{library}: attention, tokens, logits" if library else "weights only",
    )
