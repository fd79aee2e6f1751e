"""A purification at work, from the measuring before it to the comparison with other repairs."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from baddiffusion import metrics
from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defenses import Averaging, Repair, Repaired, Subject
from baddiffusion.images import Pixels, to_uint8
from baddiffusion.metrics import Estimate
from baddiffusion.purifying.comparing import CompareRow, Pictures, baselines
from baddiffusion.purifying.gauge import Gauge, Reading
from baddiffusion.purifying.orders import Orders, repair_for
from baddiffusion.purifying.purification import changed_blocks, outcome_of
from baddiffusion.purifying.rounds import Round, best, has_more
from baddiffusion.purifying.suspicion import Suspicion, suspicion_of_scan
from baddiffusion.purifying.switches import switches
from baddiffusion.rng import derive
from baddiffusion.scanner import examine
from baddiffusion.watching import Watcher

__all__ = ["Course"]


@dataclass
class Course:
    """All that follows the scan before.

    Args:
        sealed: the model as it came.
        suspicion: what the scan found in it.
        orders: what is to be done.
        watcher: is told how far the work is.
        device: where.
        network_calls: made so far.
    """

    sealed: SealedCheckpoint
    suspicion: Suspicion
    orders: Orders
    watcher: Watcher
    device: torch.device | str | None
    network_calls: int = 0

    def carry_out(self) -> dict[str, Any]:
        """Do it; the fields of a `Purification` that it decides."""
        orders, settings = self.orders, self.orders.settings
        gauge = Gauge(self.suspicion.findings, settings, len(self.sealed.schedule.betas), orders.seed, orders.real)
        before = self._read(gauge, self.sealed, "before")
        original = metrics.features(to_uint8(before.images["ordinary"]))
        subject = Subject(self.sealed, self.device)
        free = switches(subject, gauge, self.watcher)
        self.network_calls += subject.spent.network_calls
        steps: list[Repaired] = []
        between = None
        if orders.sibling is not None:
            steps.append(self._repair(Averaging().with_sibling(orders.sibling), self.sealed, orders.seed))
            between = self._read(gauge, steps[-1].model, "averaged", original)
        rounds = self._rounds(gauge, steps[-1].model if steps else self.sealed, original)
        kept = best(rounds)
        steps += [each.repaired for each in rounds[: kept.number]]
        score_before, score_after = (self._score(m, t) for m, t in ((self.sealed, "before"), (kept.model, "after")))
        return {
            "outcome": outcome_of(before, kept.reading, kept.rescan, settings),
            "before": before,
            "between": between,
            "after": kept.reading,
            "switches": free,
            "steps": tuple(steps),
            "rounds": tuple(rounds),
            "model": kept.model,
            "rescan": kept.rescan,
            "compared": self._compared(gauge, rounds, original, score_after) if orders.compare else (),
            "score_before": score_before,
            "score_after": score_after,
            "changed": changed_blocks(self.sealed, kept.model),
        }

    def _rounds(self, gauge: Gauge, start: SealedCheckpoint, original: Any) -> list[Round]:
        """Repair, measure and scan, until a fresh scan finds nothing, a round is no better, or all are done."""
        known = [self.suspicion]
        rounds = [self._round(known, start, None, gauge, original)]
        while has_more(rounds, self.orders.settings.rounds):
            known.append(rounds[-1].found)
            rounds.append(self._round(known, rounds[-1].model, start, gauge, original))
        return rounds

    def _round(
        self,
        known: list[Suspicion],
        model: SealedCheckpoint,
        start: SealedCheckpoint | None,
        gauge: Gauge,
        original: Any,
    ) -> Round:
        """One round, on all that the scans so far found; later ones keep what the start of the first one answers."""
        orders, number, began = self.orders, len(known), time.perf_counter()
        watcher = self.watcher if number == 1 else _Numbered(self.watcher, number)
        again = () if number == 1 else (number,)  # the first round is what it is alone
        seed = derive(orders.seed, "purify", "round", number) if again else orders.seed
        repaired = self._repair(repair_for(known, orders, self.sealed, start), model, seed, watcher=watcher)
        reading = self._read(gauge, repaired.model, "after", original, watcher)
        scan_seed = derive(orders.seed, "purify", "scan after", *again)
        settings = orders.settings
        rescan = examine(repaired.model, scan_seed, settings.budget, settings.scan, device=self.device, watcher=watcher)
        self.network_calls += rescan.spent.network_calls
        found = suspicion_of_scan(rescan, repaired.model.digest)
        return Round(number, known[-1], repaired, reading, rescan, found, time.perf_counter() - began)

    def _read(
        self,
        gauge: Gauge,
        model: SealedCheckpoint,
        title: str,
        original: Any = None,
        watcher: Watcher | None = None,
    ) -> Reading:
        reading = gauge.read(model, title, watcher or self.watcher, self.device, original)
        self.network_calls += reading.network_calls
        return reading

    def _repair(
        self,
        repair: Repair,
        model: SealedCheckpoint,
        seed: int,
        data: Pixels | None = None,
        watcher: Watcher | None = None,
    ) -> Repaired:
        done = repair.repair(model, data, seed, device=self.device, watcher=watcher or self.watcher)
        self.network_calls += done.spent.network_calls
        return done

    def _score(self, model: SealedCheckpoint, title: str) -> tuple[Estimate, ...]:
        if self.orders.score is None:
            return ()
        effect = self.orders.score.measure(model, title, self.device, self.watcher)
        self.network_calls += effect.network_calls
        return effect.estimates

    def _compared(
        self, gauge: Gauge, rounds: list[Round], original: Any, score: tuple[Estimate, ...]
    ) -> tuple[CompareRow, ...]:
        """This repair beside others from the model as it came, at as many calls as all its rounds took."""
        orders, kept = self.orders, best(rounds)
        calls = sum(each.repaired.spent.network_calls for each in rounds)
        seconds = sum(each.repaired.spent.seconds for each in rounds)
        words = "" if len(rounds) == 1 else f"in {len(rounds)} rounds"
        rows = [CompareRow(kept.repaired, words, calls, seconds, kept.reading, score)]
        repair = repair_for([self.suspicion], orders, self.sealed)
        if orders.pictures is not None:
            pictures = Pictures(orders.pictures, "clean pictures", 0)
        else:
            pictures = Pictures.drawn(self.sealed, repair, orders.seed, self.watcher, self.device)
            self.network_calls += pictures.network_calls
        for other, told in baselines(repair, self.suspicion.findings, calls - pictures.network_calls, pictures):
            done = self._repair(other, self.sealed, orders.seed, pictures.pixels)
            reading = self._read(gauge, done.model, done.method, original)
            spent = done.spent.network_calls + pictures.network_calls
            measured = self._score(done.model, done.method)
            rows.append(CompareRow(done, told, spent, done.spent.seconds, reading, measured))
        return tuple(rows)


class _Numbered:
    """A watcher that is told of which round a stage is."""

    def __init__(self, watcher: Watcher, number: int) -> None:
        self._watcher, self._number = watcher, number

    def stage(self, title: str, total: int, unit: str) -> None:
        """A stage begins."""
        self._watcher.stage(f"round {self._number}: {title}", total, unit)

    def advance(self, done: int, note: str = "") -> None:
        """So much of it is done."""
        self._watcher.advance(done, note)
