"""`python -m regvit_jax.analysis` is `regvit-analyze`."""

from regvit_jax.analysis.cli import main

main()
