"""How is a name written that holds what cannot be shown? Escaped, as Python writes it."""

import re

# Control characters, and the bytes of file names that are not UTF-8 (lone surrogates).
_UNSHOWN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def shown(text: str, keep: str = "") -> str:
    """The text without control characters and bytes that are no text.

    Args:
      text: Such as a file's name.
      keep: Characters that stay, such as a line's end where lines are meant.
    """
    return _UNSHOWN.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")
