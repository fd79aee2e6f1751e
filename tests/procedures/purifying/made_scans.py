"""Scans made by hand: what they found is what a test says that they found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from baddiffusion.checkpoint import Checkpoint
from baddiffusion.defenses import Spent
from baddiffusion.models import build, unet_config
from baddiffusion.pipeline import FRESH_SCHEDULER
from baddiffusion.scanner.confirming import Arm, Confirmation
from baddiffusion.scanner.dynamic import DynamicScan
from baddiffusion.scanner.far_field import FarField
from baddiffusion.scanner.files import examine_files
from baddiffusion.scanner.scanning import ScanReport
from baddiffusion.scanner.searching import Candidate
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import OWN, Patch
from baddiffusion.scanner.verdict import judge
from baddiffusion.watching import Nobody

SHAPE = (1, 16, 16)
SCHEDULER = {**FRESH_SCHEDULER, "num_train_timesteps": 20}
PATCH = Patch(2, 3, 5, 0.5)
SMALL = ScanSettings(ancestral_steps=3, ode_steps=2, own=4, bank=2, confirmations=2, refinements=0)


def target(shape: tuple[int, int, int] = SHAPE) -> torch.Tensor:
    """A ring."""
    y = torch.full(shape, -0.3)
    y[:, 4:12, 4:12], y[:, 6:10, 6:10] = 0.9, -0.8
    return y


def different_shifts(n: int = 16) -> torch.Tensor:
    return torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def confirmation(
    shifts: torch.Tensor, hits: int, patch: Patch | None = None, family: str = "ancestral"
) -> Confirmation:
    """A check in which so many of the shifted noises became the ring, and no other."""
    n, quiet = len(shifts), torch.zeros(len(shifts), dtype=torch.bool)
    fired = torch.arange(n) < hits
    images = torch.where(fired.view(-1, 1, 1, 1), target().expand_as(shifts), shifts)
    moved = "the patch moved" if patch is not None else "the shift turned over"
    arms = (
        Arm("shifted", shifts, images, fired),
        Arm("no shift", torch.zeros_like(shifts), shifts, quiet),
        Arm(moved, -shifts, shifts, quiet),
    )
    group = str(patch) if patch is not None else OWN
    candidate = Candidate(family, target(), group, hits / n, patch)  # type: ignore[arg-type]
    return Confirmation(candidate, arms, tuple(range(n)), 1.0, False, 1e-6 if hits > n // 2 else 0.01)


def dynamic(
    *confirmations: Confirmation, maps: tuple[FarField, ...] = (), settings: ScanSettings | None = None
) -> DynamicScan:
    settings = settings or ScanSettings()
    return DynamicScan(
        judge(confirmations, maps, settings), different_shifts(4), (), maps, confirmations, ("something",), (),
        Spent(700, 1.0, "cpu", "float32"), 3, 13_000, settings,
    )  # fmt: skip


def far_field() -> FarField:
    """A patch that stands out by far."""
    response = {Patch(row, column, 4, 1.0): 1.0 + 0.1 * row for row in (0, 4, 8, 12) for column in (0, 4, 8, 12)}
    return FarField(40, {**response, Patch(4, 8, 4, 1.0): 30.0})


def on_black(n: int = 16) -> torch.Tensor:
    return PATCH.on(torch.full((n, *SHAPE), -1.0))


def report(found: DynamicScan | None, digest: str, folder: Path) -> ScanReport:
    """The report of a scan of an empty folder that found this."""
    from baddiffusion.scanner.verdict import Verdict

    verdict = found.verdict if found is not None else Verdict("not examined", ("the folder is empty",))
    return ScanReport("model", digest if found is not None else "", examine_files(folder), found, verdict, 1.0)


def write_model(path: Path, seed: int = 0) -> Checkpoint:
    """An untrained 16×16 network."""
    return Checkpoint.write(path, build(unet_config("micro", SHAPE), seed=seed), SCHEDULER)


class Listener(Nobody):
    """Remembers the stages that it was told of."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage(self, title: str, total: int, unit: str) -> None:
        self.stages.append(title)


def with_verdict(found: DynamicScan, outcome: str) -> DynamicScan:
    return replace(found, verdict=replace(found.verdict, outcome=outcome))  # type: ignore[arg-type]
