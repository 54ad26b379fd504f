"""What is the fastest that a training step could be on a GPU, by its memory and by its arithmetic?

`python -m benchmarks.roofline` prints the budget of a step in bfloat16, computed as on a GPU
(`regvit_jax.ways`); `--write` puts it into docs/speed.md. Counted is what every operation reads and
writes once; weights, the optimiser and the pixels are shared by a batch, and left out.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple

from benchmarks.tables import replaced_table
from regvit_jax.config import VARIANTS, ViTConfig
from regvit_jax.train.flops import training_flops

PAGE = Path(__file__).parents[1] / "docs" / "speed.md"
BEGIN, END = "<!-- roofline: python -m benchmarks.roofline -->", "<!-- end of roofline -->"
STREAM, HALF = 4, 2
"""Bytes of a number in the residual stream, and in what products read and write."""


class Card(NamedTuple):
    """What a GPU can do, as far as a training step gets it."""

    name: str
    bytes_per_second: float
    flops_per_second: float


H100 = Card("H100 (3.0 TB/s, 790 TFLOP/s)", 3.0e12, 790e12)
"""Rates that large copies and products reach, not those of the data sheet."""


class Cost(NamedTuple):
    """Bytes that one operation moves, for each number of one array of tokens."""

    operation: str
    forward: float
    backward: float


def block_costs(config: ViTConfig) -> list[Cost]:
    """What each part of a block moves; the backward pass reads what the forward one left."""
    wide = config.mlp_dim / config.embed_dim
    qkv = 3 * config.num_heads * config.head_dim / config.embed_dim
    norm = Cost("LayerNorm", STREAM + HALF, HALF + 3 * STREAM)
    added = Cost("bias, LayerScale, residual", HALF + 2 * STREAM, STREAM + 2 * HALF)

    def dense(name: str, into: float, out: float) -> Cost:
        """Two gradients: each reads the result's; one reads and one writes what went in."""
        moved = HALF * (into + out)
        return Cost(name, moved, 2 * moved)

    return [
        norm,
        dense("query, key, value", 1, qkv),
        Cost("attention in one kernel", HALF * (qkv + qkv / 3), HALF * (2 * qkv + 2 * qkv / 3)),
        dense("projection", qkv / 3, 1),
        added,
        norm,
        dense("first layer of the MLP", 1, wide),
        Cost("bias, GELU", HALF * 2 * wide, HALF * 3 * wide),
        dense("second layer of the MLP", wide, 1),
        added,
    ]


def bytes_of_step(config: ViTConfig) -> float:
    """Bytes that one image's forward and backward pass move through the blocks."""
    num_tokens = config.class_token + config.num_registers + config.grid[0] * config.grid[1]
    each = sum(cost.forward + cost.backward for cost in block_costs(config))
    return each * num_tokens * config.embed_dim * config.depth


def images_per_second(config: ViTConfig, card: Card) -> dict[str, float]:
    """The bounds by memory, by arithmetic, and by one after the other."""
    memory = bytes_of_step(config) / card.bytes_per_second
    arithmetic = training_flops(config) / card.flops_per_second
    bounds = {
        "memory": memory,
        "arithmetic": arithmetic,
        "one after the other": memory + arithmetic,
    }
    return {name: 1 / seconds for name, seconds in bounds.items()}


def lines() -> list[str]:
    """The budget as Markdown."""
    small = dataclasses.replace(VARIANTS["small"], num_registers=4)
    costs = block_costs(small)
    rows = [f"| {c.operation} | {c.forward:.0f} | {c.backward:.0f} |" for c in costs]
    total = [sum(getattr(c, way) for c in costs) for way in ("forward", "backward")]
    text = [
        "| part of a block of DeiT-III Small + 4 | bytes forward | bytes backward |",
        "|---|---|---|",
        *rows,
        f"| **together** | **{total[0]:.0f}** | **{total[1]:.0f}** |",
        "",
        f"Bytes are for each number of one array of tokens; 12 blocks move "
        f"{bytes_of_step(small) / 1e6:.0f} MB an image. The bounds on one {H100.name}:",
        "",
        "| images/s of the step, bound by | Tiny + 4 | Small + 4 | Base + 4 |",
        "|---|---|---|---|",
    ]
    found = [
        images_per_second(dataclasses.replace(VARIANTS[name], num_registers=4), H100)
        for name in ("tiny", "small", "base")
    ]
    for bound in found[0]:
        text.append(f"| {bound} | " + " | ".join(f"{each[bound]:,.0f}" for each in found) + " |")
    return text


def replaced(text: str) -> str:
    """The page with the budget anew."""
    return replaced_table(text, BEGIN, END, lines())


def main() -> None:
    """Prints the budget, or writes it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/speed.md")
    if parser.parse_args().write:
        PAGE.write_text(replaced(PAGE.read_text()))
    else:
        print(*lines(), sep="\n")


if __name__ == "__main__":
    main()
