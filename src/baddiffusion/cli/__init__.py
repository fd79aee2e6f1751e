"""The command line: verbs, each a few lines over the library. Nothing heavy is imported before a verb needs it."""

from baddiffusion.cli import (
    converting,
    hubbing,
    inpaint,
    listing,
    matrix,
    measuring,
    reproducing,
    running,
    sampling,
    showing,
    sweeping,
    trajectory,
)
from baddiffusion.cli.app import app, call

__all__ = [
    "app",
    "call",
    "converting",
    "hubbing",
    "inpaint",
    "listing",
    "matrix",
    "measuring",
    "reproducing",
    "running",
    "sampling",
    "showing",
    "sweeping",
    "trajectory",
]
