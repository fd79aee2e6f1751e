"""The one script of a page."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources

from markupsafe import Markup

__all__ = ["Script"]


class Script:
    """What sorts a page's tables: the browser runs it because its hash stands in the page's policy, and nothing else.

    Args:
        name: of the file among the templates.
    """

    def __init__(self, name: str = "sweep.js") -> None:
        self.text = Markup((resources.files("baddiffusion.report") / "templates" / name).read_text(encoding="utf-8"))
        self.digest = base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()
