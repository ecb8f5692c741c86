"""HTML from Jinja2 templates: all values are escaped, and a missing value is an error."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.terminal import plain

if TYPE_CHECKING:
    from jinja2 import Environment


def render(template: Path, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: the file; it may include and import other files of its folder.
        values: the template's variables. Texts are escaped, `markupsafe.Markup` is not.

    Returns:
        The HTML, without control characters and secrets.

    Raises:
        jinja2.UndefinedError: the template uses a name that has no value.
    """
    return plain(_environment(template.parent).get_template(template.name).render(values))


@cache
def _environment(folder: Path) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        auto_reload=False,
    )
