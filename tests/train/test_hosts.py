"""Do 1 device, 8 devices and 2 processes with 2 devices each end with the same parameters?"""

import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest

from regvit_jax import checkpoint
from regvit_jax.checkpoint import flatten
from regvit_jax.errors import InputError
from regvit_jax.train.hosts_config import HostsConfig
from regvit_jax.train.peers import STATUS

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
import json, os, signal
from regvit_jax.train import loop
out, recipe, coordinator, process, last_step = sys.argv[1:]
def take_step(passage, take=loop._Passage._take_step):
    take(passage)
    if passage.step == int(last_step or -1):
        os.kill(os.getpid(), signal.SIGKILL)
loop._Passage._take_step = take_step
if coordinator:
    join(HostsConfig(coordinator=coordinator, num_processes=2, process_id=int(process)))
train(Recipe.from_json(json.loads(recipe)), Path(out))
"""


def start(out, recipe, devices, coordinator="", process=0, last_step=""):
    """A process that trains on some virtual devices, and may be killed after a step."""
    flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    arguments = [str(out), json.dumps(recipe.to_json()), coordinator, str(process), last_step]
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


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def lives(recipe, change, tmp_path_factory):
    """How runs ended by how they were computed: status, what was said, and where the result is.

    Those of two processes lost the second one after step 3, and were started again.
    """
    folder = tmp_path_factory.mktemp("hosts")
    saving, two = change(recipe, save_steps=1), folder / "two"
    alone = {
        "1 device": start(folder / "one", recipe, 1),
        "8 devices": start(folder / "eight", recipe, 8),
    }
    groups = {name: [process] for name, process in alone.items()}
    try:
        for name, last_step in (("lost", "3"), ("2 x 2", "")):
            address = free_address()
            given = [(address, 0, ""), (address, 1, last_step)]
            groups[name] = [start(two, saving, 2, *each) for each in given]
            said = [process.communicate(timeout=TIMEOUT)[0] for process in groups[name]]
            groups[name] = [
                (p.returncode, text) for p, text in zip(groups[name], said, strict=True)
            ]
            if last_step:
                assert not (two / "model").exists()
        for name, process in alone.items():
            text, _ = process.communicate(timeout=TIMEOUT)
            groups[name] = [(process.returncode, text)]
    finally:
        for process in (p for group in groups.values() for p in group if not isinstance(p, tuple)):
            process.kill()
            process.communicate()
    places = {"1 device": folder / "one", "8 devices": folder / "eight", "2 x 2": two}
    return groups, places


@pytest.fixture(scope="module")
def runs(lives):
    """Parameters and metrics after five steps, by how they were computed."""
    groups, places = lives
    for name in places:
        for status, text in groups[name]:
            assert status == 0, text
    return {name: result(place) for name, place in places.items()}


def result(out):
    return flatten(checkpoint.load(out)[1]), checkpoint.read_info(out).metrics


@pytest.mark.parametrize("name", ["8 devices", "2 x 2"])
def test_the_parameters_after_five_steps_are_the_same(runs, name):
    expected, found = runs["1 device"][0], runs[name][0]
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=0, atol=ATOL, err_msg=key)


def test_every_image_is_evaluated_once(runs):
    assert {metrics["top1"]["n"] for _, metrics in runs.values()} == {30}


def test_the_loss_of_a_process_is_told_by_the_other(lives):
    """What they had saved is where both went on, to the parameters compared above."""
    (first, said), (second, _) = lives[0]["lost"]
    assert second == -signal.SIGKILL
    assert first == STATUS, said
    assert "Process 1 is gone" in said


def test_a_cluster_that_is_half_described_is_refused():
    with pytest.raises(InputError, match="belong together"):
        HostsConfig(coordinator="localhost:1234")
