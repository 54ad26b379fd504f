"""Which family and which model do these tensors belong to?

A dialect is tried by writing down what a model of it must hold, and comparing: all that is
missing, unexpected or of another shape is reported at once.
"""

import collections
import math
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from convert.dialects import DIALECTS, Dialect
from convert.rules import Shape, rules
from convert.stored import Stored
from regvit_jax.config import ViTConfig
from regvit_jax.errors import InputError

NUM_HEADS = {192: 3, 384: 6, 512: 8, 768: 12, 1024: 16, 1280: 16, 1536: 24}
"""Attention heads by width, which no tensor tells: 64 channels a head, 80 for the huge variant."""

FLOATS = ("float16", "bfloat16", "float32", "float64")

_SHOWN = 12
"""Tensors listed in full under each kind of problem."""


class Match(NamedTuple):
    """A family's reading of some tensors, with all that contradicts it."""

    family: str
    config: ViTConfig
    heads_known: bool
    """False if the number of heads is a guess: the width is no published one."""
    missing: dict[str, Shape]
    unexpected: dict[str, Shape]
    misshapen: dict[str, tuple[Shape, Shape]]
    """Shapes expected and found."""
    mistyped: dict[str, str]
    """Tensors whose type is not one of weights."""

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.family]

    @property
    def num_problems(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.misshapen) + len(self.mistyped)

    def check(self, label: str, heads: bool = True) -> None:
        """Does nothing if the tensors are a model of the family.

        Args:
          label: What to call the file in an error.
          heads: Whether the number of heads must be known.

        Raises:
          InputError: If anything does not fit, all of it in one message.
        """
        if self.num_problems:
            raise InputError(
                f"{label} is no vision transformer of a known family. The nearest is "
                f"{self.dialect.title}, with {self.config.depth} blocks of width "
                f"{self.config.embed_dim}, which it does not fit:\n  {self.problems()}"
            )
        if heads and not self.heads_known:
            raise InputError(
                f"{label} has tokens of width {self.config.embed_dim}, which no published model "
                "has, and the number of attention heads is not written in it. Give it: "
                "--num-heads N."
            )

    def problems(self) -> str:
        """What does not fit, one tensor a line."""
        misshapen = {k: f"expected {e}, found {f}" for k, (e, f) in self.misshapen.items()}
        lines = [
            *_lines("missing tensor", self.missing),
            *_lines("unexpected tensor", self.unexpected),
            *_lines("wrong shape:", misshapen),
            *_lines("wrong type:", self.mistyped),
        ]
        return "\n  ".join(lines)


def recognise(
    tensors: Mapping[str, Stored], family: str | None = None, num_heads: int | None = None
) -> Match:
    """The reading of the family that fits best, or of the given one.

    Args:
      tensors: By the name in the file.
      family: A name in `DIALECTS`; None tries all.
      num_heads: Attention heads, where the width does not tell.
    """
    families = [family] if family else list(DIALECTS)
    matches = (_match(name, tensors, num_heads) for name in families)
    return min(matches, key=lambda match: match.num_problems)


def _match(family: str, tensors: Mapping[str, Stored], num_heads: int | None) -> Match:
    dialect = DIALECTS[family]
    found = {name: tensor.shape for name, tensor in tensors.items() if name not in dialect.dropped}
    config, heads_known = _infer(dialect, found, num_heads)
    expected: dict[str, Shape] = {}
    for rule in rules(dialect, config):
        expected |= rule.their_shapes()
    both = expected.keys() & found.keys()
    return Match(
        family=family,
        config=config,
        heads_known=heads_known,
        missing={k: v for k, v in expected.items() if k not in found},
        unexpected={k: v for k, v in found.items() if k not in expected},
        misshapen={
            k: (expected[k], found[k]) for k in found if k in both and expected[k] != found[k]
        },
        mistyped={
            k: tensors[k].dtype for k in found if k in both and tensors[k].dtype not in FLOATS
        },
    )


def _infer(
    dialect: Dialect, shapes: Mapping[str, Shape], num_heads: int | None
) -> tuple[ViTConfig, bool]:
    """The configuration that the tensors speak of, with DeiT-III's values where they are silent."""
    default = ViTConfig()
    size = _Sizes(shapes)
    first = dialect.block.format(0)
    widths = [
        size(dialect.cls_token, -1, 3),
        size(dialect.pos_embed, -1, 3),
        size(f"{dialect.patch_embed}.bias", 0, 1),
        size(f"{dialect.norm}.weight", 0, 1),
        size(f"{first}.{dialect.norm1}.weight", 0, 1),
    ]
    embed_dim = _most_common(widths) or default.embed_dim
    patch_size = size(f"{dialect.patch_embed}.weight", 3, 4) or default.patch_size
    positions = (size(dialect.pos_embed, 1, 3) or default.grid[0] ** 2) - dialect.class_slot
    mlp_dim = size(f"{first}.{dialect.fc1}.weight", 0, 2) or 4 * embed_dim
    heads = num_heads or NUM_HEADS.get(embed_dim)
    config = ViTConfig(
        embed_dim=embed_dim,
        depth=_depth(dialect, shapes) or default.depth,
        num_heads=heads or 1,
        patch_size=patch_size,
        # A grid that is no square shows itself as a wrong shape of `pos_embed`.
        image_size=max(1, math.isqrt(max(positions, 0))) * patch_size,
        num_registers=size(dialect.reg_tokens, 1, 3) or 0,
        num_classes=size(f"{dialect.head}.weight", 0, 2) or default.num_classes,
        mlp_ratio=mlp_dim / embed_dim,
        pos_resampling=dialect.pos_resampling,
    )
    return config, heads is not None


class _Sizes(NamedTuple):
    """Sizes of tensors that have the number of axes that they should have."""

    shapes: Mapping[str, Shape]

    def __call__(self, name: str | None, axis: int, rank: int) -> int | None:
        shape = self.shapes.get(name or "")
        return shape[axis] if shape is not None and len(shape) == rank else None


def _most_common(values: Iterable[int | None]) -> int | None:
    counts = collections.Counter(value for value in values if value)
    return counts.most_common(1)[0][0] if counts else None


def _depth(dialect: Dialect, names: Iterable[str]) -> int:
    """Number of blocks that any tensor names."""
    pattern = re.compile(re.escape(dialect.block).replace(r"\{\}", r"(\d+)") + r"\.")
    return len({match[1] for match in map(pattern.match, names) if match})


def _lines(problem: str, tensors: Mapping[str, object]) -> list[str]:
    lines = [f"{problem} {name} {detail}" for name, detail in tensors.items()]
    hidden = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"... and {hidden} more"] if hidden > 0 else lines
