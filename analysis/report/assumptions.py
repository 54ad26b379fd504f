"""What was assumed of each model when it was imported, because no file says it?

`regvit-convert import` keeps it in a checkpoint's `config.json` (`source`, `assumed`): a list of
objects with what, value, option, text and why. Directories of other origin have none.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]

KEY = "assumed"


def assumed_sentences(sources: Mapping[str, Any]) -> list[str]:
    """One sentence per model of which something was assumed.

    Args:
      sources: What `config.json` says of each model's source, by the model's name.
    """
    return [
        f"Assumed of {name}, because no file says it: {'; '.join(items)}."
        for name, source in sources.items()
        if (items := _items(source))
    ]


def without_assumed(source: Any) -> Any:
    """The source without what `assumed_sentences` says."""
    if not _items(source):
        return source
    return {name: value for name, value in source.items() if name != KEY}


def _items(source: Any) -> list[str]:
    """Each assumption in words; of another form than ours, as it stands."""
    found = source.get(KEY) if isinstance(source, Mapping) else None
    if not isinstance(found, Sequence) or isinstance(found, str):
        found = [found] if found else []
    return [text for item in found if (text := _words(item))]


def _words(item: Any) -> str:
    """Such as "6 heads (as in published models of this width; otherwise: --num-heads)"."""
    if not isinstance(item, Mapping):
        return "" if item is None else str(item)
    named = [str(item[key]) for key in ("what", "value") if item.get(key) is not None]
    words = str(item.get("text") or " ".join(named))
    details = [str(item["why"])] if item.get("why") else []
    details += [f"otherwise: {item['option']}"] if item.get("option") else []
    return f"{words} ({'; '.join(details)})" if words and details else words
