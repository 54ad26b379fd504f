"""`python -m regvit_jax.analysis` is `regvit-analyze`."""

from regvit_jax.entry import analyze

analyze()
