"""`python -m analysis` is `regvit-analyze`."""

from analysis.cli import main

main()
