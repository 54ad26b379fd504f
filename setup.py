"""README as a package index shows it, which has none of the files that relative links lead to."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
RELATIVE = r"\((?![a-z]+:|#)([^)\s]+)\)"


def for_an_index(readme: str, files: str) -> str:
    """README with absolute links, or without pictures and relative links where there is no address.

    Args:
      readme: Markdown, its links relative to the root of the repository.
      files: The address under which the repository's files can be read, ending in "/", or "".
    """
    if files:
        return re.sub(r"\]" + RELATIVE, rf"]({files}\1)", readme)
    without_pictures = re.sub(r"^!\[[^\]]*\]" + RELATIVE + r"\n+", "", readme, flags=re.M)
    return re.sub(r"\[([^\]]*)\]" + RELATIVE, r"\1", without_pictures)


if __name__ == "__main__":
    project = tomllib.loads((HERE / "pyproject.toml").read_text(encoding="utf-8"))
    readme = (HERE / "README.md").read_text(encoding="utf-8")
    setup(
        long_description=for_an_index(readme, project["tool"]["readme"]["files"]),
        long_description_content_type="text/markdown",
    )
