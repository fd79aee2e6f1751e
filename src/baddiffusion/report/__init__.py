"""Reports: self-contained HTML pages, made from the files of runs, sweeps and reproductions and from nothing else."""

from baddiffusion.report.folders import write_page
from baddiffusion.report.index_page import write_index
from baddiffusion.report.run.page import write_report
from baddiffusion.report.sweep.page import write_comparison_page

__all__ = ["write_comparison_page", "write_index", "write_page", "write_report"]
