"""The command line: verbs, each a few lines over the library. Nothing heavy is imported before a verb needs it."""

from baddiffusion.cli import converting, listing, measuring, running, sampling, showing
from baddiffusion.cli.app import app, call

__all__ = ["app", "call", "converting", "listing", "measuring", "running", "sampling", "showing"]
