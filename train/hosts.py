"""How do several processes train one model? They start together and agree on what all must know."""

import json
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from regvit_jax.errors import InputError
from regvit_jax.train.hosts_config import HostsConfig


def join(hosts: HostsConfig) -> None:
    """Waits for the other processes; to be called before anything is computed.

    Raises:
      InputError: If they cannot be found.
    """
    if not hosts.distributed and hosts.coordinator is None:
        return
    try:
        jax.distributed.initialize(hosts.coordinator, hosts.num_processes, hosts.process_id)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"The other processes were not found ({str(error).splitlines()[0]}). On a cluster that "
            "JAX does not know, give --coordinator HOST:PORT --num-processes N --process-id I."
        ) from error


def is_first() -> bool:
    """Whether this process writes what all of them found."""
    return jax.process_index() == 0


def from_first(tree: Any) -> Any:
    """The first process's values, in all processes."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.broadcast_one_to_all(tree)


def from_first_json(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """The first process's JSON, in all processes."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(from_first(np.int32(len(text))))
    return json.loads(bytes(from_first(np.resize(text, size))).decode())


def total(counts: np.ndarray) -> np.ndarray:
    """The sum over all processes."""
    if jax.process_count() == 1:
        return counts
    return np.asarray(multihost_utils.process_allgather(counts)).sum(axis=0)


def any_of(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    return bool(total(np.array([int(flag)]))[0])
