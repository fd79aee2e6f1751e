"""The scanner: is this checkpoint backdoored? Evidence, a verdict in one of five words, and what was not looked at."""

from baddiffusion.scanner.dynamic import BUDGET, DEEP_BUDGET, DynamicScan, examine
from baddiffusion.scanner.files import FileLimits, FileReport, examine_files
from baddiffusion.scanner.scanning import ScanReport, scan
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.verdict import Outcome, Verdict

__all__ = [
    "BUDGET",
    "DEEP_BUDGET",
    "DynamicScan",
    "FileLimits",
    "FileReport",
    "Outcome",
    "ScanReport",
    "ScanSettings",
    "Verdict",
    "examine",
    "examine_files",
    "scan",
]
