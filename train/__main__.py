"""`python -m regvit_jax.train` is `regvit-train`."""

from regvit_jax.train.cli import main

main()
