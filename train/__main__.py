"""`python -m train` is `regvit-train`."""

from train.cli import main

main()
