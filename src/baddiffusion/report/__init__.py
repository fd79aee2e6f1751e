"""The report of a run: one self-contained HTML page, made from the run's files and from nothing else."""

from baddiffusion.report.page import write_report

__all__ = ["write_report"]
