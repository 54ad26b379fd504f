"""What does an option mean that is given twice? More values where it takes several, else a slip."""

from collections.abc import Collection, Sequence

from regvit_jax.errors import InputError


def gathered(
    arguments: Sequence[str], several: Collection[str] = (), lines: Collection[str] = ()
) -> list[str]:
    """Arguments in which every option stands once, with all of its values.

    Args:
      arguments: Of a command line.
      several: Options to which more values may be added by naming them again, with dashes:
        "--gram-bias".
      lines: Those of them that take one text, in which each value is a line.

    Raises:
      InputError: If another option is given twice, or with its opposite.
    """
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    groups: list[tuple[str, list[str]]] = [("", [])]
    given: dict[str, str] = {}
    for argument in arguments[:end]:
        if not argument.startswith("--"):
            groups[-1][1].append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        subject = name.replace("--no-", "--", 1)
        if subject in given and name not in several:
            raise InputError(_slip(given[subject], name))
        given[subject] = name
        groups.append((name, [value] if equals else []))
    merged: dict[str, list[str]] = {}
    for name, values in groups:
        merged.setdefault(name, []).extend(values)
    for name in merged.keys() & set(lines):
        merged[name] = ["\n".join(merged[name])] if merged[name] else []
    options = [([name] if name else []) + values for name, values in merged.items()]
    return [part for option in options for part in option] + list(arguments[end:])


def _slip(before: str, name: str) -> str:
    """What is wrong with an option after an earlier one on the same subject."""
    if before == name:
        return f"{name} is given twice; it counts once. Leave one out."
    return f"{before} and {name} contradict each other. Leave one out."
