"""Which family and which model do these tensors belong to?

A dialect is tried by writing down what a model of it must hold, and comparing: all that is
missing, unexpected or of another shape is reported at once.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from regvit_jax.config import ViTConfig
from regvit_jax.convert.addresses import common_start
from regvit_jax.convert.dialect import Dialect
from regvit_jax.convert.dialects import DIALECTS
from regvit_jax.convert.infer import infer
from regvit_jax.convert.rules import their_shapes
from regvit_jax.convert.stored import Stored
from regvit_jax.convert.transforms import Shape
from regvit_jax.errors import InputError

FLOATS = ("float16", "bfloat16", "float32", "float64")

_SHOWN = 12
"""Tensors listed in full under each kind of problem."""


class Match(NamedTuple):
    """A family's reading of some tensors, with all that contradicts it."""

    family: str
    dialect: Dialect
    """The family's, as these tensors spell it."""
    config: ViTConfig
    heads_known: bool
    """False if nothing tells the number of heads: the width is no published one."""
    is_found: bool
    """Whether any tensor told the width or the depth; otherwise the configuration means nothing."""
    names: Mapping[str, Shape]
    """All tensors, as the file names them."""
    dropped: list[str]
    """Tensors that the family has and our model does not compute with."""
    missing: dict[str, Shape]
    unexpected: dict[str, Shape]
    misshapen: dict[str, tuple[Shape, Shape]]
    """Shapes expected and found."""
    mistyped: dict[str, str]
    """Tensors whose type is not one of weights."""
    contradiction: str = ""
    """Why no model of the family has these sizes; empty if one can."""

    @property
    def num_problems(self) -> int:
        tensors = [*self.missing, *self.unexpected, *self.misshapen, *self.mistyped]
        return len(tensors) + bool(self.contradiction)

    @property
    def foreign(self) -> list[str]:
        """Tensors that are left out and that the family's own code does not know."""
        return [name for name in self.dropped if not self.dialect.is_dropped(name)]

    def check(self, label: str, heads: bool = True) -> None:
        """Does nothing if the tensors are a model of the family.

        Args:
          label: What to call the file in an error.
          heads: Whether the number of heads must be known.

        Raises:
          InputError: If anything does not fit, all of it in one message.
        """
        if self.num_problems and not self.is_found:
            raise InputError(self._unknown(label))
        if self.num_problems:
            raise InputError(
                f"{label} cannot be read as {self.dialect.title}, the nearest known family (with "
                f"{self.config.depth} blocks of width {self.config.embed_dim}){self._start()}:\n"
                f"  {self.problems()}{self._cure()}"
            )
        if heads and not self.heads_known:
            raise InputError(
                f"{label} has tokens of width {self.config.embed_dim}, which no published model "
                "has, and the number of attention heads is not written in it. Give it: "
                "--num-heads N."
            )

    def _unknown(self, label: str) -> str:
        """What to say of tensors that are of no known family."""
        titles = ", ".join(DIALECTS)
        shown = "\n  ".join(_lines("tensor", self.names))
        return (
            f"{label} cannot be read as any known family ({titles}), whose names none of its "
            f"{len(self.names)} tensors has{self._start()}. If a known model lies in it under "
            f"a prefix, give it: --prefix.\n  {shown}"
        )

    def _cure(self) -> str:
        if [*self.misshapen] != [self.dialect.pos_embed]:
            return ""
        return "\nIf its patches make no square, give their rows and columns: --grid ROWS COLUMNS."

    def _start(self) -> str:
        start = common_start(self.names)
        return f"; all names start with `{start}`" if start else ""

    def problems(self) -> str:
        """What does not fit, one tensor a line."""
        misshapen = {k: f"expected {e}, found {f}" for k, (e, f) in self.misshapen.items()}
        lines = [
            *_lines("missing tensor", self.missing),
            *_lines("unexpected tensor", self.unexpected),
            *_lines("wrong shape:", misshapen),
            *_lines("wrong type:", self.mistyped),
            *([self.contradiction] if self.contradiction else []),
        ]
        return "\n  ".join(lines)


_IDLE = ("mask_token", "embeddings.mask_token", "n_averaged")
"""Tensors of training that no family computes with in evaluation: what stands for masked patches,
and how many models `torch.optim.swa_utils` has averaged."""


def recognise(
    tensors: Mapping[str, Stored],
    family: str | None = None,
    known: Mapping[str, Any] | None = None,
) -> Match:
    """The reading of the family that fits best, or of the given one.

    Args:
      tensors: By the name in the file.
      family: A name in `DIALECTS`; None tries all.
      known: What the tensors do not tell, as for `infer`.
    """
    families = [family] if family else _related(tensors)
    matches = [match for name in families for match in _matches(name, tensors)]
    best = min(matches, key=lambda m: (m.num_problems, len(m.foreign), len(m.dropped)))
    return _match(best.family, best.dialect, tensors, known) if known else best


def _related(tensors: Mapping[str, Stored]) -> list[str]:
    """The families with the most names in common, by the first block and what lies around it."""
    common = {family: _num_common(dialect, tensors) for family, dialect in DIALECTS.items()}
    most = max(common.values())
    return [family for family, count in common.items() if 3 * count >= 2 * most]


def _num_common(dialect: Dialect, tensors: Mapping[str, Stored]) -> int:
    """Names that any spelling has, the most of one."""
    return max(sum(n in tensors for n in spelt.landmarks) for spelt in dialect.spelt())


def _matches(family: str, tensors: Mapping[str, Stored]) -> list[Match]:
    """The readings in all of a family's spellings."""
    return [_match(family, dialect, tensors, {}) for dialect in DIALECTS[family].spelt()]


def _match(
    family: str, dialect: Dialect, tensors: Mapping[str, Stored], known: Mapping[str, Any]
) -> Match:
    idle = sorted(
        name
        for name, tensor in tensors.items()
        if dialect.is_dropped(name) or name in _IDLE or 0 in tensor.shape
    )
    found = {name: tensor.shape for name, tensor in tensors.items() if name not in idle}
    fields = infer(dialect, found, known)
    config, contradiction = _possible(fields | {"num_heads": fields["num_heads"] or 1})
    expected = their_shapes(dialect, config)
    both = [name for name in found if name in expected]
    return Match(
        family=family,
        dialect=dialect,
        config=config,
        heads_known=fields["num_heads"] is not None,
        is_found=any(name in expected for name in found),
        names={name: tensor.shape for name, tensor in tensors.items()},
        dropped=idle,
        missing={k: v for k, v in expected.items() if k not in found},
        unexpected={k: v for k, v in found.items() if k not in expected},
        misshapen={k: (expected[k], found[k]) for k in both if expected[k] != found[k]},
        mistyped={k: tensors[k].dtype for k in both if tensors[k].dtype not in FLOATS},
        contradiction=contradiction,
    )


def _possible(fields: dict[str, Any]) -> tuple[ViTConfig, str]:
    """The configuration, and why it is none; then one without what the family says of positions."""
    try:
        return ViTConfig(**fields), ""
    except InputError as error:
        plain = {"rope": "none", "register_rope_base": 0.0}
        why = str(error)
    try:
        return ViTConfig(**fields | plain), why
    except InputError as error:
        raise InputError(f"The tensors have sizes of no known model: {error}") from error


def _lines(problem: str, tensors: Mapping[str, object]) -> list[str]:
    lines = [f"{problem} {name} {detail}" for name, detail in tensors.items()]
    hidden = len(lines) - _SHOWN
    return [*lines[:_SHOWN], f"... and {hidden} more"] if hidden > 0 else lines
