"""Where in a file do its tensors lie, and under which names? Wrappers and prefixes are one thing.

Training code puts a model's tensors into dictionaries ("state_dict", "teacher") and its names
behind prefixes ("backbone."). An address joins both by dots: one prefix says where a model is.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

from regvit_jax.errors import InputError

Role = Literal["plain", "teacher", "student", "ema"]
"""Which of several copies of a network some weights are."""

_TRANSPARENT = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module"
    r"|_forward_module|_fpw_module|_dp_wrapped_module)\."
)
"""Segments that wrappers of a module (data-parallel, compiled, sharded) add to every name in it."""

_ROLES: tuple[tuple[Role, re.Pattern[str]], ...] = (
    ("teacher", re.compile(r"(^|[._])teacher([._]|$)")),
    ("student", re.compile(r"(^|[._])student([._]|$)")),
    ("ema", re.compile(r"(^|[._])(ema|averaged|momentum|target)([._]|$)|encoder_k([._]|$)")),
)

_MAX_DEPTH = 8
"""Dictionaries inside dictionaries that are looked into."""


class Found(NamedTuple):
    """What a file holds, by address."""

    tensors: dict[str, Any]
    others: dict[str, str]
    """What lies beside tensors and is none, by the name of its type."""
    groups: tuple[str, ...]
    """The dictionaries that hold tensors, by their address with a dot behind it."""


def find(content: Mapping[Any, Any], kind: type) -> Found:
    """All tensors that are reached from a dictionary through names alone.

    Args:
      content: What was saved.
      kind: The type of what stands for a tensor in it.
    """
    tensors: dict[str, Any] = {}
    others: dict[str, str] = {}
    groups: list[str] = []
    for address, values in _dictionaries(content):
        named = {name: value for name, value in values.items() if type(name) is str}
        if any(isinstance(value, kind) for value in named.values()):
            groups.append(address)
        for name, value in named.items():
            if isinstance(value, kind):
                tensors.setdefault(address + name, value)
            elif not isinstance(value, Mapping):
                others.setdefault(address + name, type(value).__name__)
    return Found(tensors, others, tuple(groups))


def clean(addresses: Iterable[str], label: str) -> dict[str, str]:
    """Addresses without what wrappers of modules add, and the ones they had.

    Raises:
      InputError: If two become one.
    """
    cleaned: dict[str, str] = {}
    for address in addresses:
        short = _TRANSPARENT.sub("", address)
        if short in cleaned:
            raise InputError(
                f"{label} holds {short} twice, as {cleaned[short]} and {address}. Expected each "
                "tensor once; save the one that counts alone."
            )
        cleaned[short] = address
    return cleaned


def role(address: str) -> Role:
    """Which copy of a network an address speaks of."""
    return next((name for name, pattern in _ROLES if pattern.search(address)), "plain")


def summary(prefix: str, addresses: Iterable[str]) -> list[str]:
    """What lies outside a prefix, in few words: branches with their number of tensors.

    Args:
      prefix: Of what is not summarised.
      addresses: Outside it.
    """
    inside = prefix.split(".")
    counts: dict[str, int] = {}
    for address in addresses:
        segments = address.split(".")
        shared = 0
        while shared < min(len(inside), len(segments)) - 1 and inside[shared] == segments[shared]:
            shared += 1
        branch = ".".join(segments[: shared + 1])
        counts[branch] = counts.get(branch, 0) + 1
    return [f"{name} ({n} tensor{'' if n == 1 else 's'})" for name, n in counts.items()]


def common_start(names: Iterable[str]) -> str:
    """What all names start with, in whole segments: "backbone.", or nothing."""
    split = [name.split(".")[:-1] for name in names]
    shared: list[str] = []
    for segments in zip(*split, strict=False):
        if len(set(segments)) > 1 or segments[0].isdecimal():
            break
        shared.append(segments[0])
    return "".join(f"{segment}." for segment in shared)


def _dictionaries(content: Mapping[Any, Any]) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Every dictionary, outermost first; one that is reached twice counts once."""
    seen: set[int] = set()
    level: list[tuple[str, Mapping[Any, Any]]] = [("", content)]
    for _ in range(_MAX_DEPTH):
        below: list[tuple[str, Mapping[Any, Any]]] = []
        for address, values in level:
            if id(values) in seen:
                continue
            seen.add(id(values))
            yield address, values
            below += [
                (f"{address}{name}.", value)
                for name, value in values.items()
                if type(name) is str and isinstance(value, Mapping)
            ]
        level = below
