"""Files inside the page: what a reader wants to keep costs no second request."""

from __future__ import annotations

import base64
from dataclasses import dataclass

__all__ = ["Download", "csv_download", "png_download"]


@dataclass(frozen=True)
class Download:
    """A file: ``name`` is what it is saved as, ``title`` what the link says."""

    name: str
    title: str
    uri: str


def csv_download(name: str, title: str, text: str) -> Download:
    """A table. It opens with a byte order mark, without which spreadsheets take UTF-8 for something else.

    Example:
        >>> csv_download("table", "The table", "a,b").uri
        'data:text/csv;charset=utf-8;base64,77u/YSxi'
    """
    return Download(f"{name}.csv", title, "data:text/csv;charset=utf-8;base64," + _packed(text.encode("utf-8-sig")))


def png_download(name: str, title: str, png: bytes) -> Download:
    """A figure."""
    return Download(f"{name}.png", title, "data:image/png;base64," + _packed(png))


def _packed(content: bytes) -> str:
    return base64.b64encode(content).decode()
