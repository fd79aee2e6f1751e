"""One scan of one checkpoint: its files, then its behavior, then one answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from baddiffusion.errors import BadDiffusionError, CheckpointError
from baddiffusion.scan_rates import of_outcome
from baddiffusion.scanner.dynamic import BUDGET, DEEP_BUDGET, DynamicScan, examine
from baddiffusion.scanner.files import FileReport, examine_files
from baddiffusion.scanner.inversion import DeepMethod
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.verdict import Outcome, Verdict, corrected, shortfall
from baddiffusion.watching import Watcher

__all__ = ["SCHEMA", "ScanReport", "dynamic_entry", "scan"]

SCHEMA = 2
EXIT_CODES: dict[Outcome, int] = {
    "backdoored": 3,
    "suspicious": 3,
    "no evidence": 0,
    "inconclusive": 4,
    "not examined": 4,
}


@dataclass(frozen=True, eq=False)
class ScanReport:
    """What a scan found.

    Args:
        name: the checkpoint as it was named; of a folder only its last part.
        digest: of weights and configurations; empty where the network was not examined.
        files: what the files show.
        dynamic: what the network's behavior shows; None where it was not examined.
        verdict: about the network's behavior; alarms of the files stand beside it, in ``files.alarms``.
        seconds: wall time.
    """

    name: str
    digest: str
    files: FileReport
    dynamic: DynamicScan | None
    verdict: Verdict
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 no evidence, 3 backdoored, suspicious or an alarm of the files, 4 no answer."""
        return 3 if self.files.alarms else EXIT_CODES[self.verdict.outcome]

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it. Wall time apart, the same scan gives the same dictionary."""
        dynamic = self.dynamic
        return {
            "schema": SCHEMA,
            "name": self.name,
            "digest": self.digest,
            "verdict": {
                "outcome": self.verdict.outcome,
                "reasons": list(self.verdict.reasons),
                "p_value": self.verdict.p_value,
                "advice": list(self.verdict.advice),
                "measured": of_outcome(self.verdict.outcome),
            },
            "files": self.files.to_dict(),
            "dynamic": None if dynamic is None else dynamic_entry(dynamic),
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
        }


def scan(
    path: str | Path,
    *,
    base: str | Path | None = None,
    seed: int = 0,
    budget: int = BUDGET,
    settings: ScanSettings | None = None,
    deep: DeepMethod | None = None,
    deep_budget: int = DEEP_BUDGET,
    siblings: Sequence[str | Path] = (),
    device: torch.device | str | None = None,
    watcher: Watcher | None = None,
) -> ScanReport:
    """Scan one checkpoint folder: nothing of it is executed, its card is not read, its weights are sampled.

    Args:
        path: the folder.
        base: the folder of what it was fine-tuned from, to compare weights and scheduler with.
        seed: decides everything random.
        budget: network calls at most, see `examine`; 0 looks at the files alone.
        settings: of the dynamic stages.
        deep: how to search by gradients where everything else did not prove a backdoor; None does not.
        deep_budget: network calls of that search at most, on top of ``budget``.
        siblings: folders of clean models with the same shape and schedule, see `examine`.
        device: where; None picks a GPU if there is one.
        watcher: is told how far the scan is.

    Raises:
        CheckpointError: the path is no folder.
    """
    began = time.perf_counter()
    files = examine_files(Path(path), Path(base) if base is not None else None)
    digest, dynamic = "", None
    if files.checkpoint is None:
        verdict = Verdict("not examined", (files.reason,))
    elif budget == 0:
        verdict = Verdict("not examined", ("Only the files were asked for.",))
    else:
        try:
            sealed = files.checkpoint.sealed()
            digest = sealed.digest
            dynamic = examine(
                sealed, seed, budget, settings, deep=deep, deep_budget=deep_budget, siblings=siblings, device=device,
                watcher=watcher,
            )  # fmt: skip
            verdict = dynamic.verdict
        except CheckpointError as error:
            verdict = Verdict("not examined", (str(error),))
        except BadDiffusionError as error:
            verdict = Verdict("inconclusive", (f"The samples could not be made: {error}",))
    return ScanReport(Path(path).name, digest, files, dynamic, verdict, time.perf_counter() - began)


def dynamic_entry(dynamic: DynamicScan) -> dict[str, Any]:
    """The dynamic stages as JSON takes them."""
    spent = {key: value for key, value in dynamic.spent.to_dict().items() if key != "seconds"}
    return {
        "seed": dynamic.seed,
        "budget": dynamic.budget,
        "settings": dynamic.settings.model_dump(mode="json"),
        "spent": spent,
        "searched": list(dynamic.searched),
        "not_searched": list(dynamic.not_searched),
        "far_field": [
            {
                "ground": m.ground,
                "t": m.t,
                "peak": dict(vars(m.peak)),
                "ratio": m.ratio,
                "z": m.z,
                "places": len(m.response),
            }
            for m in dynamic.maps
        ],
        "confirmations": [
            {
                "family": c.candidate.family,
                "group": c.candidate.group,
                "patch": None if c.candidate.patch is None else dict(vars(c.candidate.patch)),
                "search_share": c.candidate.share,
                "p_value": c.p_value,
                "unexplained": c.unexplained,
                "follows": c.follows,
                "generic": c.generic,
                "siblings": list(c.siblings),
                "shortfall": shortfall(c, p_value, dynamic.settings),
                "arms": [
                    arm.estimate(c.candidate.family, dynamic.settings.steps(c.candidate.family)).to_dict()
                    for arm in c.arms
                ],
            }
            for c, p_value in zip(dynamic.confirmations, corrected(dynamic.confirmations), strict=True)
        ],
        "probes": [{"group": p.group.name, "family": p.family, "n": len(p.images)} for p in dynamic.probes],
        "deep": None if dynamic.deep is None else dynamic.deep.to_dict(),
        "siblings": None if dynamic.siblings is None else dynamic.siblings.to_dict(),
    }
