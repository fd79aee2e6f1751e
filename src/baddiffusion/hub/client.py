"""The hub's client: quiet, offline where told so, and its errors in one line."""

from __future__ import annotations

import os

__all__ = ["NAME", "failures", "first_line", "is_offline", "quiet"]

NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
"""``owner/name``, as a pattern."""


def quiet() -> None:
    """Switch the library's telemetry off; it reads its environment once, at import, when it may be too late."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids the network, be it set before the library was imported or after."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def failures() -> tuple[type[Exception], ...]:
    """What the library raises where the name, the network or a permission is at fault."""
    from huggingface_hub.errors import HTTPError, RevisionResolutionError

    # An upload or a download that breaks off is a RuntimeError there.
    return OSError, ValueError, RuntimeError, HTTPError, RevisionResolutionError


def first_line(error: Exception) -> str:
    """The first line of what an error says, without a full stop."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else "no reason given"
