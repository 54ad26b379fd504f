"""Is the arithmetic of a forward pass counted as others count it?"""

import dataclasses

import pytest

from regvit_jax.config import VARIANTS
from regvit_jax.train.flops import forward_flops, matrix_rate, training_flops

# Multiply-adds of DeiT-III Small at 224 px with R registers, in billions: protocols.md, 1.2.
SMALL = {0: 4.599, 1: 4.624, 2: 4.649, 4: 4.698, 8: 4.798, 16: 4.999}


@pytest.mark.parametrize(("num_registers", "billions"), SMALL.items())
def test_the_published_numbers_of_deit3_small(num_registers, billions):
    config = dataclasses.replace(VARIANTS["small"], num_registers=num_registers)
    assert forward_flops(config) / 2e9 == pytest.approx(billions, abs=6e-4)
    assert training_flops(config) == 3 * forward_flops(config)


def test_the_devices_rate_is_measured():
    assert 1e8 < matrix_rate("float32") < 1e16
