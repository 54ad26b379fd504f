"""`python -m regvit_jax.train` is `regvit-train`."""

from regvit_jax.entry import train

train()
