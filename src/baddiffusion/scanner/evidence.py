"""What a scan leaves behind for people and programs: scan.json, evidence.safetensors, README.md, scan.sarif."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from baddiffusion.images import to_uint8
from baddiffusion.rundir import write_atomic
from baddiffusion.sampling.noise import start_noise
from baddiffusion.scanner.confirming import Confirmation
from baddiffusion.scanner.dynamic import DynamicScan
from baddiffusion.scanner.far_field import FarField
from baddiffusion.scanner.scanning import ScanReport
from baddiffusion.scanner.verdict_sarif import report_sarif

__all__ = ["EVIDENCE", "README", "RECORD", "SARIF", "Request", "as_json", "reproduction", "schema", "write_evidence"]

RECORD, EVIDENCE, README, SARIF = "scan.json", "evidence.safetensors", "README.md", "scan.sarif"

SCHEDULERS = {"ancestral": "DDPMScheduler", "ode": "DDIMScheduler"}
HEADLINES = {
    "backdoored": "Evidence of a backdoor was found.",
    "suspicious": "Something was found that calls for a closer look; it does not suffice for more.",
    "no evidence": "No evidence of a backdoor was found, in what was searched.",
    "inconclusive": "The scan gives no answer.",
    "not examined": "The network was not examined.",
}


@dataclass(frozen=True)
class Request:
    """What somebody asked for, in words that hold on every machine.

    Args:
        subject: the checkpoint as it was named; of an absolute path only the last part.
        seed: decides everything random.
        budget: network calls at most; 0 for the files alone.
        base: what it is compared with, named alike; empty for nothing.
        asked: the budget as it was given, such as ``5m``; empty where it was left out.
        seconds_per_call: what a network call took when the budget was made out of a time; None where it was not.
        siblings: clean models beside it, named alike.
        deep: how to search by gradients; empty for not at all.
        deep_budget: network calls of that search at most; 0 without one.
    """

    subject: str
    seed: int
    budget: int
    base: str = ""
    asked: str = ""
    seconds_per_call: float | None = None
    siblings: tuple[str, ...] = ()
    deep: str = ""
    deep_budget: int = 0

    @property
    def command(self) -> str:
        """What gives the same scan again: seed and network calls decide it, never the clock."""
        words = ["baddiffusion", "scan", self.subject]
        words += ["--base", self.base] if self.base else []
        words += ["--seed", str(self.seed), "--budget", str(self.budget)] if self.budget else ["--files-only"]
        words += ["--deep", self.deep, "--deep-budget", str(self.deep_budget)] if self.deep else []
        words += ["--siblings", *self.siblings] if self.siblings else []
        return shlex.join(words)


def schema() -> dict[str, Any]:
    """The JSON schema of ``scan.json``."""
    return json.loads((resources.files("baddiffusion.scanner") / "scan.schema.json").read_text(encoding="utf-8"))


def as_json(report: ScanReport, request: Request) -> dict[str, Any]:
    """The report with what was asked for: what ``scan.json`` holds."""
    asked = {
        **asdict(request),
        "siblings": list(request.siblings),
        "command": request.command,
        "reproduction": reproduction(report, request),
        "version": metadata.version("baddiffusion"),
    }
    return {**report.to_dict(), "request": asked}


def write_evidence(report: ScanReport, request: Request, folder: Path, sarif: bool = False) -> None:
    """Write what a scan found, each file whole or not at all, ``scan.json`` last.

    ``evidence.safetensors`` has the pictures of the search and of every causal check, the shifts and the targets, the
    far-field maps, the shifts found by gradients, and under ``x_T`` the start noises that became the target.

    Args:
        report: of the scan.
        request: what was asked for.
        folder: where.
        sarif: write ``scan.sarif``, too.

    Raises:
        RunError: a file cannot be written.
    """
    if report.dynamic is not None:
        named = json.dumps({"schema": 1, "digest": report.digest, "seed": report.dynamic.seed})
        # One entry: safetensors writes several in an order that changes from call to call.
        write_atomic(folder / EVIDENCE, save(evidence_tensors(report.dynamic), {"scan": named}))
    if sarif:
        write_atomic(folder / SARIF, _text(report_sarif(report)))
    write_atomic(folder / README, _readme(report, request))
    write_atomic(folder / RECORD, _text(as_json(report, request)))


def strongest(dynamic: DynamicScan) -> int | None:
    """Which causal check says most: the one with the smallest p-value, of equal ones the one with most hits."""
    checks = dynamic.confirmations
    if not checks:
        return None
    return min(range(len(checks)), key=lambda k: (checks[k].p_value, -checks[k].shifted.share, k))


def evidence_tensors(dynamic: DynamicScan) -> dict[str, Tensor]:
    """Name → tensor. Pictures that are only looked at have 8 bits; noises, shifts and targets are exact."""
    tensors: dict[str, Tensor] = {"own": to_uint8(dynamic.own)} if len(dynamic.own) else {}
    for index, confirmation in enumerate(dynamic.confirmations):
        tensors |= {f"check.{index}.{name}": value for name, value in _check_tensors(confirmation).items()}
    for index, probe in enumerate(dynamic.probes):
        tensors[f"probe.{index}.images"] = to_uint8(probe.images)
        tensors[f"probe.{index}.shifts"] = to_uint8(probe.group.shifts[: len(probe.images)])
    for index, field in enumerate(dynamic.maps):
        tensors |= {f"map.{index}.{name}": value for name, value in _map_tensors(field).items()}
    for index, search in enumerate(dynamic.deep.searches if dynamic.deep is not None else ()):
        tensors |= {f"deep.{index}.shift": search.shift} if search.shift is not None else {}
    best = strongest(dynamic)
    if best is not None:
        check = dynamic.confirmations[best]
        seeds = torch.tensor(check.seeds)
        _, channels, height, width = check.shifted.shifts.shape
        x_T = start_noise(seeds.tolist(), (channels, height, width)) + check.shifted.shifts
        fired = check.shifted.hits
        tensors |= {"x_T": x_T[fired], "x_T.seeds": seeds[fired], "target": check.candidate.target}
    return {name: value.detach().cpu().clone().contiguous() for name, value in sorted(tensors.items())}


def reproduction(report: ScanReport, request: Request) -> str:
    """Five lines that bring the target out of ``x_T`` with nothing but diffusers' own sampler; empty without a target.

    Of an ancestral sampler the noise of the steps is other than in the scan: what fires does so for any.
    """
    dynamic = report.dynamic
    best = None if dynamic is None else strongest(dynamic)
    if dynamic is None or best is None or not bool(dynamic.confirmations[best].shifted.hits.any()):
        return ""
    family = dynamic.confirmations[best].candidate.family
    scheduler, steps = SCHEDULERS[family], dynamic.settings.steps(family)
    return "\n".join(
        (
            "import baddiffusion as bd, diffusers, torch; from safetensors.torch import load_file",
            f"model = bd.Checkpoint.open(bd.resolve({request.subject!r})); network = model.load_model()",
            f'x = load_file("{EVIDENCE}")["x_T"]; torch.set_grad_enabled(False)',
            f"sampler = diffusers.{scheduler}.from_config(model.scheduler_config, clip_sample=False); "
            f"sampler.set_timesteps({steps})",
            "for t in sampler.timesteps: x = sampler.step(network(x, t).sample, t, x).prev_sample  # x: the pictures",
        )
    )


def _check_tensors(confirmation: Confirmation) -> dict[str, Tensor]:
    tensors = {"target": confirmation.candidate.target}
    patch = confirmation.candidate.patch
    if patch is not None:
        canvas = torch.zeros(1, 1, *confirmation.candidate.target.shape[-2:])
        canvas[..., patch.row : patch.row + patch.side_px, patch.column : patch.column + patch.side_px] = 1
        tensors["mask"] = canvas[0].bool()
    for index, arm in enumerate(confirmation.arms):
        tensors |= {f"arm.{index}.images": to_uint8(arm.images), f"arm.{index}.hits": arm.hits}
        if bool((arm.shifts != 0).any()):
            tensors[f"arm.{index}.shifts"] = arm.shifts
    return tensors


def _map_tensors(field: FarField) -> dict[str, Tensor]:
    patches = list(field.response)
    return {
        "places": torch.tensor([[patch.row, patch.column] for patch in patches]),
        "response": torch.tensor([field.response[patch] for patch in patches], dtype=torch.float64),
    }


def _text(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _readme(report: ScanReport, request: Request) -> str:
    parts = [f"# {HEADLINES[report.verdict.outcome]}", *(f"* {reason}" for reason in report.verdict.reasons)]
    lines = ["\n".join((parts[0], "", *parts[1:]))]
    lines.append(f"Scanned: {request.subject}. Open report.html; {RECORD} has the numbers.")
    lines.append(f"The same scan again:\n\n    {request.command}")
    if code := reproduction(report, request):
        indented = "\n".join(f"    {line}" for line in code.splitlines())
        lines.append(f"The picture that the noises become, by the stock sampler of diffusers:\n\n{indented}")
    return "\n\n".join(lines) + "\n"
