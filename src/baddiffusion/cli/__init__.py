"""The command line: verbs, each a few lines over the library. Nothing heavy is imported before a verb needs it."""

from baddiffusion.cli import (
    converting,
    defending,
    demo,
    guarding,
    hubbing,
    inpaint,
    listing,
    matrix,
    measuring,
    reproducing,
    running,
    sampling,
    scanning,
    showing,
    sweeping,
    trajectory,
    zooing,
)
from baddiffusion.cli.app import app, call

__all__ = [
    "app",
    "call",
    "converting",
    "defending",
    "demo",
    "guarding",
    "hubbing",
    "inpaint",
    "listing",
    "matrix",
    "measuring",
    "reproducing",
    "running",
    "sampling",
    "scanning",
    "showing",
    "sweeping",
    "trajectory",
    "zooing",
]
