"""Reports: self-contained HTML pages, made from the files of runs, sweeps and reproductions and from nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from baddiffusion.report.folders import write_page
    from baddiffusion.report.index_page import write_index
    from baddiffusion.report.run.page import write_report
    from baddiffusion.report.sweep.page import write_comparison_page

__all__ = ["write_comparison_page", "write_index", "write_page", "write_report"]

# A page is imported when it is asked for (PEP 562): that of a queue needs no torch.
_HOME_OF = {
    "write_comparison_page": "sweep.page",
    "write_index": "index_page",
    "write_page": "folders",
    "write_report": "run.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value
