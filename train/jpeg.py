"""Is a JPEG file so sound that all decoders make the same of it?

Decoders differ in what they do about damage: one refuses what another fills up with grey, without a
word. Which markers follow which is looked at here, for a small part of the time of decoding.

Reference: ITU-T T.81, annex B.
"""

import re

START, END = b"\xff\xd8\xff", b"\xff\xd9"

_SCAN = 0xDA
_SEGMENTS = frozenset({0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
"""Markers with a length: frames of the usual kinds, tables, restarts, comments and applications."""
_AFTER_SCAN = frozenset({0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7]")
"""In values, where 0xFF is written as 0xFF 0x00 and restarts (D0 to D7) stand between them."""


def is_sound(data: bytes) -> bool:
    """Whether segments follow each other as they should, from the start to an end at the end."""
    if not (data.startswith(START) and data.endswith(END)):
        return False
    place, last = 2, len(data) - 2
    allowed = _SEGMENTS
    while place < last:
        marker, size = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if data[place] != 0xFF or marker not in allowed or size < 2:
            return False
        place += 2 + size
        if marker == _SCAN:
            found = _MARKER.search(data, place)
            if found is None:
                return False
            place, allowed = found.start(), _AFTER_SCAN
    return place == last and allowed is _AFTER_SCAN
