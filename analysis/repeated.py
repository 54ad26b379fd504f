"""What does an option mean that is given twice? More values where it takes several, else a slip."""

from collections.abc import Collection, Sequence

from regvit_jax.errors import InputError


def gathered(arguments: Sequence[str], several: Collection[str]) -> list[str]:
    """Arguments in which every option stands once, with all of its values.

    Args:
      arguments: Of a command line.
      several: Options that take several values, with dashes: "--gram-bias".

    Raises:
      InputError: If an option that takes one value is given twice.
    """
    groups: list[tuple[str, list[str]]] = [("", [])]
    places: dict[str, int] = {}
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            groups[-1][1].append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = name.replace("_", "-")
        if name in places and name not in several:
            raise InputError(f"{name} is given twice; it takes one value. Leave one out.")
        places.setdefault(name, len(places))
        groups.append((name, [value] if equals else []))
    merged: dict[str, list[str]] = {}
    for name, values in groups:
        merged.setdefault(name, []).extend(values)
    return [part for name, values in merged.items() for part in ([name] if name else []) + values]
