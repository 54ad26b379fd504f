"""Is the budget of a step in the docs the one that is counted, and is the count right?"""

import dataclasses

import pytest

from benchmarks import roofline
from regvit_jax.config import VARIANTS


def test_the_docs_have_the_budget_as_it_is_counted():
    text = roofline.PAGE.read_text()
    assert roofline.replaced(text) == text


def test_the_bytes_of_a_block_are_those_counted_by_hand():
    """Each array once for each operation that reads or writes it, four times as wide in the MLP."""
    small = VARIANTS["small"]
    forward = (4 + 2) + (2 + 6) + (6 + 2) + (2 + 2) + (2 + 4 + 4)  # attention and its residual
    forward += (4 + 2) + (2 + 8) + (8 + 8) + (8 + 2) + (2 + 4 + 4)  # MLP and its residual
    assert sum(cost.forward for cost in roofline.block_costs(small)) == forward


def test_bounds_follow_from_bytes_and_operations():
    wide = dataclasses.replace(VARIANTS["small"], num_registers=4)
    bounds = roofline.images_per_second(wide, roofline.Card("", 1e12, 1e12))
    assert bounds["memory"] == pytest.approx(1e12 / roofline.bytes_of_step(wide))
    both = 1 / bounds["memory"] + 1 / bounds["arithmetic"]
    assert bounds["one after the other"] == pytest.approx(1 / both)
    deeper = dataclasses.replace(wide, depth=24)
    assert roofline.bytes_of_step(deeper) == 2 * roofline.bytes_of_step(wide)
