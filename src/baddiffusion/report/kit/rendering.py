"""How a page is made out of a template."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from baddiffusion.report.kit.wording import number, percent

__all__ = ["environment"]


def environment() -> Environment:
    """Where the templates lie and how they are filled: everything is escaped, and nothing may be missing."""
    environment = Environment(
        loader=PackageLoader("baddiffusion.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent}
    return environment
