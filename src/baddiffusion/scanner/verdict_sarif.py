"""A whole scan as SARIF: the findings in the files, and what the network's behavior shows."""

from __future__ import annotations

from typing import Any

from baddiffusion.scan_rates import of_outcome
from baddiffusion.scanner.findings import RULES, NotExamined, found
from baddiffusion.scanner.sarif import to_sarif
from baddiffusion.scanner.scanning import ScanReport

__all__ = ["BEHAVIOR", "report_sarif"]

BEHAVIOR = {"backdoored": "BD100", "suspicious": "BD101"}
"""Outcome → rule."""


def report_sarif(report: ScanReport) -> dict[str, Any]:
    """Write a scan as one run of SARIF 2.1.0.

    "No evidence" is no result; a scan without an answer says so among the notifications.

    Args:
        report: of the scan.
    """
    missing = list(report.files.not_examined)
    verdict, dynamic = report.verdict, report.dynamic
    if verdict.outcome in ("inconclusive", "not examined"):
        missing += [NotExamined("the network's behavior", reason) for reason in verdict.reasons]
    missing += [NotExamined("a part of the search", line) for line in (dynamic.not_searched if dynamic else ())]
    findings = list(report.files.findings)
    if verdict.outcome in BEHAVIOR:
        rule = RULES[BEHAVIOR[verdict.outcome]]
        measured = of_outcome(verdict.outcome)
        message = " ".join((rule.short, *verdict.reasons))
        findings.append(found(rule.id, message, digest=report.digest, measured=measured))
    return to_sarif(findings, missing)
