"""Sweeps: one recipe at many settings, a write-once run directory for each."""

from baddiffusion.sweep.cells import Cell, Sweep, in_words, value_in_words
from baddiffusion.sweep.directory import STATUSES, SweepDir, cell_state
from baddiffusion.sweep.running import run_sweep
from baddiffusion.sweep.summary import Row, headline, summarize

__all__ = [
    "STATUSES",
    "Cell",
    "Row",
    "Sweep",
    "SweepDir",
    "cell_state",
    "headline",
    "in_words",
    "run_sweep",
    "summarize",
    "value_in_words",
]
