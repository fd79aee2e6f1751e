"""Repair a checkpoint on what a scan finds in it, and measure what became of it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from baddiffusion import metrics
from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.data import ImageData
from baddiffusion.defenses import Averaging, Repair, Repaired, ShiftEquivariance, Subject
from baddiffusion.errors import RecipeError
from baddiffusion.images import Pixels, to_uint8
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.comparing import CompareRow, Pictures, baselines
from baddiffusion.purifying.gauge import Gauge, Reading
from baddiffusion.purifying.purification import Outcome, Purification, changed_blocks, outcome_of
from baddiffusion.purifying.scoring import TrueTrigger
from baddiffusion.purifying.settings import PurifySettings
from baddiffusion.purifying.suspicion import Suspicion, read_suspicion, suspicion_of
from baddiffusion.purifying.switches import switches
from baddiffusion.rng import derive
from baddiffusion.scanner import examine, scan
from baddiffusion.watching import Nobody, Watcher

__all__ = ["Orders", "purify", "repair_for"]


@dataclass(frozen=True, eq=False)
class Orders:
    """What somebody wants to be done.

    Args:
        scan: the folder of an earlier scan of the same weights; None scans first.
        sibling: a clean checkpoint of the same lineage, to average with before the repair; None for none.
        pictures: clean pictures for the repairs that it is compared with; the repair itself takes none.
        real: other real pictures, to measure quality against.
        anyway: go on where the scan found nothing, for shifts that look like pictures.
        compare: carry out clean fine-tuning and Elijah's removal at as many network calls, too.
        score: how to measure a trigger that is known; nothing else sees it.
        repair: the repair; None for its defaults.
        settings: what is measured, and how.
        seed: decides everything random.
    """

    scan: Path | None = None
    sibling: SealedCheckpoint | None = None
    pictures: Pixels | None = None
    real: ImageData | None = None
    anyway: bool = False
    compare: bool = False
    score: TrueTrigger | None = None
    repair: ShiftEquivariance | None = None
    settings: PurifySettings = field(default_factory=PurifySettings)
    seed: int = 0


def purify(
    path: str | Path,
    orders: Orders | None = None,
    *,
    device: torch.device | str | None = None,
    watcher: Watcher | None = None,
) -> Purification:
    """Repair a checkpoint; nothing is written, and the folder is left as it is.

    In this order: a scan; what free switches do to what it found; averaging with a clean sibling, if there is one; the
    data-free repair; the measuring again; a scan with another seed. A model in which the scan finds nothing is left
    alone unless that is asked for.

    Args:
        path: the folder.
        orders: what to do.
        device: where; None picks a GPU if there is one.
        watcher: is told how far the work is.

    Raises:
        CheckpointError: the folder cannot be read.
        RecipeError: the earlier scan is of other weights, the sibling does not fit, or a number is out of bounds.
        RunError: the earlier scan cannot be read, or the loss of the repair became infinite or NaN.
        EvaluationError: samples became infinite or NaN.

    Example:
        >>> purify("nowhere")
        Traceback (most recent call last):
        ...
        baddiffusion.errors.CheckpointError: nowhere does not exist; give the folder of a diffusers checkpoint.
    """
    orders, watcher, began = orders or Orders(), watcher or Nobody(), time.perf_counter()
    opened = Checkpoint.open(path)
    sealed = opened.sealed()
    if orders.sibling is not None:
        Averaging().with_sibling(orders.sibling).check(sealed, None)
    suspicion = _suspicion(Path(path), sealed, orders, device, watcher)
    stop = _stop(suspicion, orders)
    name = Path(path).name
    told: dict[str, Any] = {"name": name, "digest": sealed.digest, "suspicion": suspicion, "seed": orders.seed}
    told["settings"] = orders.settings
    scan_calls = suspicion.network_calls if orders.scan is None else 0
    if stop is not None:
        spent = {"seconds": time.perf_counter() - began, "network_calls": scan_calls}
        return Purification(outcome=stop, **told, **spent)
    course = _Course(sealed, suspicion, orders, watcher, device)
    parts = course.carry_out()
    calls = scan_calls + course.network_calls
    return Purification(**told, **parts, seconds=time.perf_counter() - began, network_calls=calls)


def repair_for(suspicion: Suspicion, orders: Orders, timesteps: int) -> ShiftEquivariance:
    """The data-free repair, bound to what was recovered."""
    asked = orders.repair or ShiftEquivariance()
    repair = asked.model_copy(update={"picture_steps": min(asked.picture_steps, timesteps)})
    if not suspicion.findings:
        return repair
    target = next((found.target for found in suspicion.findings if found.target is not None), None)
    return repair.with_shifts(torch.cat([found.for_repair for found in suspicion.findings]), target)


def _suspicion(
    path: Path, sealed: SealedCheckpoint, orders: Orders, device: torch.device | str | None, watcher: Watcher
) -> Suspicion:
    if orders.scan is None:
        settings = orders.settings
        return suspicion_of(
            scan(path, seed=orders.seed, budget=settings.budget, settings=settings.scan, device=device, watcher=watcher)
        )
    found = read_suspicion(orders.scan)
    if found.digest and found.digest != sealed.digest:
        raise RecipeError(
            f"the scan in {orders.scan} is of other weights ({found.digest[:12]}…) than {path.name} "
            f"({sealed.digest[:12]}…); give the scan of this model, or leave --scan out."
        )
    return found


def _stop(suspicion: Suspicion, orders: Orders) -> Outcome | None:
    if suspicion.outcome == "not examined" and orders.scan is None:
        return "not examined"
    if suspicion.findings or orders.anyway:
        return None
    return "nothing to repair" if suspicion.outcome == "no evidence" else "not examined"


@dataclass
class _Course:
    """A purification at work."""

    sealed: SealedCheckpoint
    suspicion: Suspicion
    orders: Orders
    watcher: Watcher
    device: torch.device | str | None
    network_calls: int = 0

    def carry_out(self) -> dict[str, Any]:
        """All but the scan before."""
        orders, settings = self.orders, self.orders.settings
        timesteps = len(self.sealed.schedule.betas)
        gauge = Gauge(self.suspicion.findings, settings, timesteps, orders.seed, orders.real)
        before = self._read(gauge, self.sealed, "before")
        original = metrics.features(to_uint8(before.images["ordinary"]))
        subject = Subject(self.sealed, self.device)
        free = switches(subject, gauge, self.watcher)
        self.network_calls += subject.spent.network_calls
        steps: list[Repaired] = []
        between = None
        if orders.sibling is not None:
            steps.append(self._repair(Averaging().with_sibling(orders.sibling), self.sealed))
            between = self._read(gauge, steps[-1].model, "averaged", original)
        repair = repair_for(self.suspicion, orders, timesteps)
        steps.append(self._repair(repair, steps[-1].model if steps else self.sealed))
        model = steps[-1].model
        after = self._read(gauge, model, "after", original)
        score_before, score_after = (self._score(m, t) for m, t in ((self.sealed, "before"), (model, "after")))
        seed = derive(orders.seed, "purify", "scan after")
        rescan = examine(model, seed, settings.budget, settings.scan, device=self.device, watcher=self.watcher)
        self.network_calls += rescan.spent.network_calls
        ours = CompareRow(steps[-1], "", steps[-1].spent.network_calls, after, score_after)
        rows = (ours, *self._others(gauge, repair, ours.network_calls, original)) if orders.compare else ()
        return {
            "outcome": outcome_of(before, after, rescan, settings),
            "before": before,
            "between": between,
            "after": after,
            "switches": free,
            "steps": tuple(steps),
            "model": model,
            "rescan": rescan,
            "compared": rows,
            "score_before": score_before,
            "score_after": score_after,
            "changed": changed_blocks(self.sealed, model),
        }

    def _read(self, gauge: Gauge, model: SealedCheckpoint, title: str, original: Any = None) -> Reading:
        reading = gauge.read(model, title, self.watcher, self.device, original)
        self.network_calls += reading.network_calls
        return reading

    def _repair(self, repair: Repair, model: SealedCheckpoint, data: Pixels | None = None) -> Repaired:
        done = repair.repair(model, data, self.orders.seed, device=self.device, watcher=self.watcher)
        self.network_calls += done.spent.network_calls
        return done

    def _score(self, model: SealedCheckpoint, title: str) -> tuple[Estimate, ...]:
        if self.orders.score is None:
            return ()
        effect = self.orders.score.measure(model, title, self.device, self.watcher)
        self.network_calls += effect.network_calls
        return effect.estimates

    def _others(self, gauge: Gauge, repair: ShiftEquivariance, calls: int, original: Any) -> list[CompareRow]:
        """The others, from the model as it came."""
        if self.orders.pictures is not None:
            pictures = Pictures(self.orders.pictures, "clean pictures", 0)
        else:
            pictures = Pictures.drawn(self.sealed, repair, self.orders.seed, self.watcher, self.device)
            self.network_calls += pictures.network_calls
        rows = []
        others = baselines(repair, self.suspicion.findings, calls - pictures.network_calls, pictures)
        for other, words in others:
            done = self._repair(other, self.sealed, pictures.pixels)
            reading = self._read(gauge, done.model, done.method, original)
            spent = done.spent.network_calls + pictures.network_calls
            rows.append(CompareRow(done, words, spent, reading, self._score(done.model, done.method)))
        return rows
