"""Which processes take part in a run? The options, without JAX."""

import dataclasses

from regvit_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class HostsConfig:
    """Which processes take part; alone unless something is given."""

    distributed: bool = False
    """Join the other processes of a cluster that JAX knows: Slurm, Open MPI, TPU pods."""
    coordinator: str | None = None
    """Address and port of process 0, where JAX does not know the cluster."""
    num_processes: int | None = None
    """Processes altogether; with `coordinator`."""
    process_id: int | None = None
    """Number of this process, from 0; with `coordinator`."""

    def __post_init__(self) -> None:
        given = [self.coordinator, self.num_processes, self.process_id]
        if any(x is not None for x in given) and any(x is None for x in given):
            raise InputError(
                "--coordinator, --num-processes and --process-id belong together: give all three, "
                "or --distributed alone where JAX knows the cluster."
            )
