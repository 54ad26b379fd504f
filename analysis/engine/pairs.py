"""Which models are compared with which?"""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from regvit_jax.analysis.engine.epochs import place_in_run
from regvit_jax.analysis.engine.subjects import Subject


@runtime_checkable
class Measured(Protocol):
    """What an analysis found out about one model."""

    @property
    def subject(self) -> Subject:
        """The model."""


M = TypeVar("M", bound=Measured)


def compared_pairs(models: Sequence[M]) -> list[tuple[M, M]]:
    """The first model with every other one; then those that differ in their registers alone.

    The latter are one without registers and one with, of the same shape, seed and step: with
    several seeds each of them has a pair of its own. No two models are paired twice.
    """
    pairs = [(models[0], other) for other in models[1:]]
    for plain in models[1:]:
        if plain.subject.config.num_registers == 0:
            pairs += [
                (plain, other)
                for other in models[1:]
                if other.subject.config.num_registers
                and _apart_from_registers(other.subject) == _apart_from_registers(plain.subject)
            ]
    return pairs


def _apart_from_registers(subject: Subject) -> Hashable:
    """What is known of a model besides its registers."""
    shape = dataclasses.replace(subject.config, num_registers=0)
    seed = subject.info.source.get("recipe", {}).get("seed")
    return shape, seed, place_in_run(subject, "step"), place_in_run(subject, "epoch")
