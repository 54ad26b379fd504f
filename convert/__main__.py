"""`python -m regvit_jax.convert` is `regvit-convert`."""

from regvit_jax.entry import convert

if __name__ == "__main__":
    convert()
