"""Would an archive unpack to far more than it is, as only one made to exhaust the memory does?"""

MAX_GROWTH, ALLOWED = 20, 2**26
"""All entries may unpack to so many times the file's size, and so many bytes more: weights barely
shrink when they are packed."""


def exhausts_memory(unpacked: int, packed: int) -> bool:
    """Whether an archive of some bytes unpacks to more than weights or arrays would.

    Args:
      unpacked: Bytes of all its entries.
      packed: Bytes of the file.
    """
    return unpacked > MAX_GROWTH * packed + ALLOWED
