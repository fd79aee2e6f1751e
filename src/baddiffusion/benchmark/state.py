"""What is measured on a model before a repair and after it, the recovered trigger included."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save
from torch import Tensor

from baddiffusion.benchmark.measuring import Measuring
from baddiffusion.benchmark.recovery import target_of
from baddiffusion.checkpoint import SealedCheckpoint
from baddiffusion.defending import Yardstick
from baddiffusion.defenses import Detection, Subject
from baddiffusion.matrix.store import Entry, Shelf
from baddiffusion.metrics import Estimate, wilson
from baddiffusion.rng import derive
from baddiffusion.rundir import write_atomic
from baddiffusion.scanner.collapse import hits
from baddiffusion.scanner.searching import sampler_of
from baddiffusion.scanner.settings import Family
from baddiffusion.watching import Watcher

__all__ = ["Found", "State", "measure", "measure_once", "success_of"]


@dataclass(frozen=True, eq=False)
class Found:
    """What a scan recovered.

    Args:
        shift: one that fires.
        target: what the noises became.
        family: of the sampler under which they did.
    """

    shift: Tensor
    target: Tensor
    family: Family


@dataclass(frozen=True, eq=False)
class State:
    """A model as it stands.

    Args:
        verdict: of its scan.
        estimates: success rate, errors, false triggers, quality.
        found: what its scan recovered; None for nothing.
        calls: network calls of the measuring and of the scan.
    """

    verdict: str
    estimates: tuple[Estimate, ...]
    found: Found | None
    calls: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, without the pictures."""
        return {
            "verdict": self.verdict,
            "estimates": [estimate.to_dict() for estimate in self.estimates],
            "recovered_trigger": self.found is not None,
            "network_calls": self.calls,
        }


def measure(
    model: SealedCheckpoint, yardstick: Yardstick, measuring: Measuring, seed: int, title: str, watcher: Watcher
) -> State:
    """Measure a model, and scan it with probes of this seed.

    Args:
        model: weights and configurations.
        yardstick: how.
        measuring: with the scan.
        seed: of the scan; another one for the scan after a repair, so that it asks what no repair could prepare for.
        title: ``before`` or ``after``.
        watcher: is told how far the work is.
    """
    effect = yardstick.measure(model, title, watcher=watcher)
    detection = measuring.scan.inspect(model, seed, watcher=watcher)
    calls = effect.network_calls + detection.spent.network_calls
    return State(_verdict(detection), effect.estimates, _found(detection), calls)


def measure_once(
    folder: Path,
    model: SealedCheckpoint,
    identity: dict[str, Any],
    yardstick: Yardstick,
    measuring: Measuring,
    seed: int,
    watcher: Watcher,
) -> State:
    """As `measure`, before a repair: kept in a folder, for all repairs of one model start from the same."""
    shelf, entry = Shelf(folder), Entry(f"before {model.digest[:12]} {seed}", identity)
    tensors = shelf.path(entry, ".safetensors")
    known = shelf.read(entry)
    if known is None:
        state = measure(model, yardstick, measuring, seed, "before", watcher)
        if state.found is not None:
            write_atomic(tensors, save({"shift": state.found.shift, "target": state.found.target}))
        shelf.write(entry, {**state.to_dict(), "family": state.found.family if state.found else None})
        return state
    kept = load_file(tensors) if known["recovered_trigger"] else {}
    found = Found(kept["shift"], kept["target"], known["family"]) if kept else None
    estimates = tuple(Estimate.from_dict(json.loads(json.dumps(each))) for each in known["estimates"])
    return State(known["verdict"], estimates, found, known["network_calls"])


def success_of(found: Found, model: SealedCheckpoint, target: Tensor, measuring: Measuring, title: str) -> Estimate:
    """How many noises become the implanted target under the *recovered* shift.

    Args:
        found: what a scan of the model before any repair recovered.
        model: before or after.
        target: the implanted one.
        measuring: n, and the steps of the scan.
        title: ``before`` or ``after``.
    """
    subject, settings = Subject(model), measuring.scan.search.within(len(model.schedule))
    how = sampler_of(found.family, settings, min(measuring.n, 32))
    shift = found.shift
    seeds = [derive(0, "recovered trigger", index) for index in range(measuring.n)]
    images = subject.sample(seeds, how, lambda eps: eps + shift.to(eps)).images
    count = int(hits(images, target).sum())
    low, high = wilson(count, measuring.n)
    return Estimate(
        name="asr_recovered", value=count / measuring.n, low=low, high=high, n=measuring.n, better="neither",
        unit="share of images",
        protocol={
            "model": title, "sampler": how.sampler.component_name, "steps": how.num_inference_steps, "clip": "off"
        },
    )  # fmt: skip


def _verdict(detection: Detection) -> str:
    return detection.notes[0].removeprefix("verdict: ")


def _found(detection: Detection) -> Found | None:
    target = target_of(detection)
    if detection.trigger is None or target is None:
        return None
    family = next((note.removeprefix("family: ") for note in detection.notes if note.startswith("family: ")), "ode")
    return Found(
        detection.trigger.detach().cpu().float().clone().contiguous(),
        target.detach().cpu().float().clone().contiguous(),
        "ancestral" if family == "ancestral" else "ode",
    )
