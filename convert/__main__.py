"""`python -m regvit_jax.convert` is `regvit-convert`."""

from regvit_jax.convert.cli import main

if __name__ == "__main__":
    main()
