"""How do several processes train one model? They start together and agree on what all must know."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from regvit_jax.errors import InputError
from regvit_jax.train.hosts_config import HostsConfig
from regvit_jax.train.peers import Peers

NEWS_SECONDS = 10.0
"""So long it may take until a process that is gone is known to be."""

_peers: Peers | None = None


def join(hosts: HostsConfig) -> None:
    """Waits for the other processes; to be called before anything is computed.

    From then on, a process ends with a message when another one is gone.

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
    if jax.process_count() > 1:
        _watch_peers(hosts)


def _watch_peers(hosts: HostsConfig) -> None:
    """Connects every process with the first one, whose address all get to know."""
    global _peers
    index, count = jax.process_index(), jax.process_count()
    first = Peers.listen(count) if index == 0 else None
    place = from_first_json(first.place if first else None)
    assert place is not None
    host = hosts.coordinator.rpartition(":")[0] if hosts.coordinator else None
    _peers = first or Peers.connect(index, place, host)


def before_the_end(act: Callable[[], None]) -> None:
    """What this process does before it ends because another one is gone."""
    if _peers is not None:
        _peers.before_the_end = act


@contextlib.contextmanager
def all_together() -> Iterator[None]:
    """What several processes do with one another: none waits for one that is gone.

    A process that ends the block well is not missed.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        # A sum over all devices has failed: whose fault it is comes to be known in a moment.
        if _peers is not None and not isinstance(error, InputError):
            _peers.wait_for_news(NEWS_SECONDS)
        raise
    if _peers is not None:
        _peers.say_goodbye()


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
