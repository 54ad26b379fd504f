"""Do 1 device, 8 devices and 2 processes with 2 devices each end with the same parameters?"""

import itertools
import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from regvit_jax import checkpoint
from regvit_jax.checkpoint import flatten
from regvit_jax.errors import InputError
from regvit_jax.train.hosts_config import HostsConfig

# Float32 sums in another order, five steps of AdamW at 1e-3; measured 2.4e-7.
ATOL = 5e-6
TIMEOUT = 400

MAIN = """
import dataclasses, sys
from pathlib import Path
import regvit_jax.digits
regvit_jax.digits.SPLITS["val"] = 30
from regvit_jax.train.hosts import join
from regvit_jax.train.hosts_config import HostsConfig
from regvit_jax.train.loop import train
from regvit_jax.train.recipe import Recipe
import json
out, recipe, coordinator, process = sys.argv[1:]
if coordinator:
    join(HostsConfig(coordinator=coordinator, num_processes=2, process_id=int(process)))
train(Recipe.from_json(json.loads(recipe)), Path(out))
"""


def start(out, recipe, devices, coordinator="", process=0):
    """A process that trains on some virtual devices."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    arguments = [str(out), json.dumps(recipe.to_json()), coordinator, str(process)]
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def recipe(recipe, change):
    """Five steps with everything random, mixing included."""
    return change(
        recipe,
        depth=1,
        batch_size=16,
        epochs=5 / 1250,
        drop_path_rate=0.3,
        flip=True,
        colour_jitter=0.3,
        mixup_alpha=0.8,
        cutmix_alpha=1.0,
        mix_group=8,
    )


@pytest.fixture(scope="module")
def runs(recipe, tmp_path_factory):
    """Parameters after five steps, by how they were computed."""
    folder = tmp_path_factory.mktemp("hosts")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    processes = {
        "1 device": [start(folder / "one", recipe, 1)],
        "8 devices": [start(folder / "eight", recipe, 8)],
        "2 x 2": [start(folder / "two", recipe, 2, address, i) for i in range(2)],
    }
    found = {}
    try:
        for (name, group), out in zip(processes.items(), ("one", "eight", "two"), strict=True):
            for process in group:
                text, _ = process.communicate(timeout=TIMEOUT)
                assert process.returncode == 0, text
            metrics = checkpoint.read_info(folder / out).metrics
            found[name] = (flatten(checkpoint.load(folder / out)[1]), metrics)
    finally:
        for process in itertools.chain(*processes.values()):
            process.kill()
            process.communicate()
    return found


@pytest.mark.parametrize("name", ["8 devices", "2 x 2"])
def test_the_parameters_after_five_steps_are_the_same(runs, name):
    expected, found = runs["1 device"][0], runs[name][0]
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=ATOL, err_msg=key)


def test_every_image_is_evaluated_once(runs):
    assert {metrics["top1"]["n"] for _, metrics in runs.values()} == {30}


def test_a_cluster_that_is_half_described_is_refused():
    with pytest.raises(InputError, match="belong together"):
        HostsConfig(coordinator="localhost:1234")
