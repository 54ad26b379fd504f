"""`python -m convert` is `regvit-convert`."""

from convert.cli import main

if __name__ == "__main__":
    main()
