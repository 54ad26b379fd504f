"""Under which prefix does a known family fit? Of all copies of a network, which one is meant?"""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from regvit_jax.convert.addresses import Role, common_start, role, summary
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.recognise import Match, recognise
from regvit_jax.convert.stored import Stored
from regvit_jax.errors import InputError

_PREFERENCE: tuple[Role, ...] = ("plain", "teacher", "student", "ema")
"""Which copy is taken where several fit and nobody says which."""

_USUAL = ("model.", "state_dict.", "model_state_dict.", "")
"""Where weights lie that the moving average or another copy stands beside."""

_HEADS_OUTSIDE = (
    (("vit.", "dinov2.", "dinov2_with_registers."), "classifier."),
    (("backbone.",), "head.layers.head."),
    (("backbone.",), "linear_head."),
    (("vision_model.",), "visual_projection."),
)
"""Heads that stand beside the prefix of the network they belong to (transformers, MMPretrain,
DINOv2's classifiers)."""

_MAX_CANDIDATES = 24


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What the user says of the weights to take; None: nothing."""

    family: str | None = None
    role: Role | None = None
    prefix: str | None = None


class Chosen(NamedTuple):
    """The tensors of one network under the names that it gives them itself."""

    prefix: str
    tensors: dict[str, Stored]
    left_out: list[str]
    """What else the file holds, in words."""
    passed_over: list[str]
    """Other prefixes under which the same network fits."""


def choose(
    tensors: Mapping[str, Stored], wanted: Wanted, label: str, groups: tuple[str, ...] = ("",)
) -> Chosen:
    """The network among the tensors of a file.

    Args:
      tensors: By address, cleaned.
      wanted: What the user says.
      groups: Addresses of the dictionaries that the tensors lie in.
      label: What to call the file in an error.

    Raises:
      InputError: If nothing lies where the user says, or several networks fit equally well.
    """
    prefixes = _prefixes(tensors, wanted, label, groups)
    inside = {prefix: _inside(tensors, prefix) for prefix in prefixes}
    matches = {p: recognise(inside[p], wanted.family) for p in prefixes}
    fitting = [prefix for prefix in prefixes if not matches[prefix].num_problems]
    prefix = _best(fitting, label) if fitting else _nearest(matches)
    outside = [name for name in tensors if not name.startswith(prefix)]
    outside = [name for name in outside if _head_name(prefix, name) not in inside[prefix]]
    return Chosen(
        prefix,
        inside[prefix],
        summary(prefix, outside),
        [other for other in fitting if other != prefix],
    )


def _prefixes(
    tensors: Mapping[str, Stored], wanted: Wanted, label: str, groups: tuple[str, ...]
) -> list[str]:
    """The prefixes to try, as far as the user leaves a choice."""
    if wanted.prefix is not None:
        return [_named_prefix(tensors, wanted.prefix, label)]
    found = _anchored(tensors) or [next((name for name in _USUAL if name in groups), groups[0])]
    if wanted.role is None:
        return found
    mine = [prefix for prefix in found if role(prefix) == wanted.role]
    if not mine:
        kind = "moving average of its weights" if wanted.role == "ema" else wanted.role
        cure = (
            "Leave out --model-ema (or --weights)"
            if wanted.role == "ema"
            else "Leave out --weights"
        )
        raise InputError(f"{label} has no {kind}; its weights lie under {_listed(found)}. {cure}.")
    return mine


def _named_prefix(tensors: Mapping[str, Stored], prefix: str, label: str) -> str:
    for name in (prefix, f"{prefix}.") if prefix else ("",):
        if (name.endswith(".") or not name) and any(key.startswith(name) for key in tensors):
            return name
    found = _anchored(tensors) or [common_start(tensors)]
    raise InputError(
        f"{label} has no names that start with {prefix!r}. Weights of a transformer lie under "
        f"{_listed(found)}."
    )


def _anchored(tensors: Mapping[str, Stored]) -> list[str]:
    """What stands before the names of tokens, positions or patches of any family."""
    anchors = {
        f"{anchor}{part}"
        for dialect in DIALECTS.values()
        for anchor in (dialect.cls_token, dialect.pos_embed, dialect.patch_embed)
        if anchor
        for part in ("", ".weight", ".kernel")
    }
    # The longest first: "embeddings." belongs to a family's name, not to the prefix.
    ordered = sorted(anchors, key=len, reverse=True)
    counts: dict[str, int] = {}
    for name in tensors:
        if anchor := next((a for a in ordered if f".{name}".endswith(f".{a}")), None):
            prefix = name.removesuffix(anchor)
            counts[prefix] = counts.get(prefix, 0) + 1
    return sorted(counts, key=lambda prefix: (-counts[prefix], len(prefix)))[:_MAX_CANDIDATES]


def _inside(tensors: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    """The tensors under a prefix, without it; blocks that lie in chunks are counted through."""
    found = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    for name, tensor in tensors.items():
        if head := _head_name(prefix, name):
            found.setdefault(head, tensor)
    # DINOv2 trains with its blocks in chunks, "blocks.CHUNK.BLOCK".
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", k): v for k, v in found.items()}


def _head_name(prefix: str, name: str) -> str:
    """What a network under a prefix calls a tensor of its head that stands beside the prefix."""
    for endings, head in _HEADS_OUTSIDE:
        for ending in endings:
            outer = prefix.removesuffix(ending)
            if outer != prefix and name.startswith(outer + head):
                return name.removeprefix(outer)
    return ""


def _best(fitting: list[str], label: str) -> str:
    """The one of several fitting prefixes that is meant where nobody says so."""
    by_role = {kind: [p for p in fitting if role(p) == kind] for kind in _PREFERENCE}
    candidates = next(found for found in by_role.values() if found)
    if len(candidates) > 1:
        usual = [prefix for prefix in _USUAL if prefix in candidates]
        if not usual:
            raise InputError(
                f"{label} holds more than one network: under {_listed(candidates)}. Choose with "
                f"--prefix {candidates[0]} (or another)."
            )
        return usual[0]
    return candidates[0]


def _nearest(matches: Mapping[str, Match]) -> str:
    """The prefix whose problems are reported where none fits."""
    order = {kind: i for i, kind in enumerate(_PREFERENCE)}
    return min(matches, key=lambda p: (matches[p].num_problems, order[role(p)]))


def _listed(prefixes: list[str]) -> str:
    return ", ".join(repr(prefix) for prefix in prefixes[:8]) or "no prefix"
