"""How are pages filled in? One environment for the templates of every room."""

from typing import Any

import jinja2


def filled(room: str, values: dict[str, Any], filters: dict[str, Any] | None = None) -> str:
    """The page of a room: its `page.html.jinja`, every text escaped.

    Args:
      room: A folder of `analysis` that holds templates, such as "report".
      values: What the template names; a name that is missing is an error.
      filters: What the template calls, beside what Jinja has.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(f"regvit_jax.analysis.{room}", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template("page.html.jinja").render(values)
