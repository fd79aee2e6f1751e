"""Every detector and repair on one clean and one backdoored model: python benchmarks/defenses.py [--only NAME…]

Both models are packaged, so that nothing is trained. A method runs at its published budget if that costs no more than
--limit network calls, else at the short one of baddiffusion/benchmark/budgets.toml, under which results say NAME-short;
--published lifts the limit. The cheapest runs first, each result is a file of its own in --folder, and what lies there
is not measured again, so the same command goes on after a break. All of them are merged into --output.

Success rate of the packaged backdoor (64 noises, DDPM-250, unclipped) and quality (256 noises, DDIM-20) stand before
and after each repair. The network alone is timed before a method and after it, on chunks of 32 in the format that the
method computes in: ratio = seconds / (network calls / rate). On a shared machine that of processor times says more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")

import torch

from baddiffusion.benchmark.contenders import Contender, contenders
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.data import SOURCES
from baddiffusion.defending import CleanPictures, Yardstick, catalog, needs_sibling, standings
from baddiffusion.defenses import Detection, Detector, Method, Repair, Repaired
from baddiffusion.defenses.anp import collapse
from baddiffusion.defenses.calibration import Calibration
from baddiffusion.errors import EvaluationError
from baddiffusion.hub import resolve
from baddiffusion.matrix import Design, Subject
from baddiffusion.poisoning import Implant
from baddiffusion.precision import autocast, default_device, resolve_precision
from baddiffusion.rundir import write_atomic
from baddiffusion.sampling import Ddim, Ddpm, SamplingSettings

SCHEMA = 1
AIM = 1.3
MODELS = ("clean", "backdoored")
SIBLING = "clean"
SHARE = 0.1
CHUNK = 32
TIMED_S = 3.0
ATTACKED = SamplingSettings(sampler=Ddpm(), num_inference_steps=250)
ORDINARY = SamplingSettings(sampler=Ddim(), num_inference_steps=20)
N, QUALITY_N = 64, 256


@dataclass(frozen=True, eq=False)
class Suspect:
    """A packaged model, and how it is measured."""

    name: str
    seed: int
    opened: Checkpoint = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "opened", Checkpoint.open(resolve(f"packaged:{self.name}")))

    @cached_property
    def clean(self) -> CleanPictures:
        """A tenth of the data for the method, the rest for measuring."""
        return CleanPictures.draw(SOURCES.parse("fashion-mnist"), self.opened.shape, SHARE, self.seed)

    @cached_property
    def implant(self) -> Implant | None:
        """What the card tells of, for measuring alone."""
        card = self.opened.card
        told = card.backdoors[0] if card is not None and card.backdoors else None
        if told is None:
            return None
        design = Design.parse(told["attack"], told["trigger"], told["target"])
        return Subject(self.name, self.opened, design, None, True).implant

    @cached_property
    def yardstick(self) -> Yardstick:
        """The same before and after."""
        return Yardstick(self.implant, ATTACKED, N, ORDINARY, QUALITY_N, self.clean.rest)


@dataclass(frozen=True)
class Rate:
    """Images through the network alone: in a second on the clock, and in one of the processor."""

    wall: float
    processor: float


def rate(model: torch.nn.Module, method: Method, shape: tuple[int, int, int]) -> Rate:
    """Time forwards of one chunk for some seconds, in the format in which a method computes."""
    device = default_device()
    x, t = torch.zeros(CHUNK, *shape, device=device), torch.zeros(CHUNK, dtype=torch.int64, device=device)
    walls, own = [], []
    with torch.inference_mode(), autocast(resolve_precision(method.precision, device), device):
        model(x, t)
        began = time.perf_counter()
        while time.perf_counter() - began < TIMED_S or len(walls) < 5:
            clock, processor = time.perf_counter(), time.process_time()
            model(x, t)
            if device.type == "cuda":
                torch.cuda.synchronize()
            walls.append(time.perf_counter() - clock)
            own.append(time.process_time() - processor)
    return Rate(CHUNK * len(walls) / sum(walls), CHUNK / statistics.median(own))


def run(suspect: Suspect, contender: Contender, before: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One method on one model."""
    method, model, device = contender.method, suspect.opened.sealed(), default_device()
    data = suspect.clean.pixels if method.needs_data else None
    network = model.load_model(device)
    first = rate(network, method, suspect.opened.shape)
    began = time.process_time()
    found: Detection | Repaired
    if isinstance(method, Detector):
        found = method.inspect(model, suspect.seed, data, device=device)
    else:
        assert isinstance(method, Repair)  # there is no third kind
        found = method.repair(model, data, suspect.seed, device=device)
    spent = time.process_time() - began
    last = rate(network, method, suspect.opened.shape)
    told = found.to_dict()
    entry = {
        **identity(suspect, contender),
        "data": suspect.clean.words if method.needs_data else None,
        "notes": told["notes"],
        "cost": _cost(told["spent"], spent, first, last),
    }
    if isinstance(found, Detection):
        return {**entry, "outcome": found.outcome, "scores": dict(found.scores), **_judged(suspect, found)}
    after = suspect.yardstick.measure(found.model, "after", device)
    return {**entry, "before": list(before), "after": [estimate.to_dict() for estimate in after.estimates]}


def _cost(spent: dict[str, Any], processor_s: float, first: Rate, last: Rate) -> dict[str, Any]:
    calls = spent["network_calls"]
    wall, processor = (statistics.mean(getattr(r, kind) for r in (first, last)) for kind in ("wall", "processor"))
    return {
        **spent,
        "processor_s": processor_s,
        "images_per_s": [first.wall, last.wall],
        "images_per_processor_s": [first.processor, last.processor],
        "ratio": spent["seconds"] * wall / calls if calls else None,
        "processor_ratio": processor_s * processor / calls if calls else None,
    }


def _told(cost: dict[str, Any]) -> str:
    ratios = [f"{cost[name]:.2f}" if cost[name] else "–" for name in ("ratio", "processor_ratio")]
    return (
        f"{cost['network_calls']:,} network calls, {cost['seconds']:.0f} s, ratio {ratios[0]}, of processor {ratios[1]}"
    )


def _judged(suspect: Suspect, found: Detection) -> dict[str, Any]:
    """Where the scores stand among those of clean models; of the perturbation, how near it came to the target."""
    standard = Calibration.packaged(found.method)
    standing: list[dict[str, Any]] = []
    if standard is not None and found.outcome == "measured":
        try:
            standing = [one.to_dict() for one in standings(found, standard, suspect.opened.digest)]
        except EvaluationError:
            standing = []
    near = None
    if suspect.implant is not None and "epoch-1" in found.pictures:
        seen = collapse(found.pictures, suspect.implant.target)
        parts = {"before": seen.before, "best": seen.best, "last": seen.last, "black": seen.black}
        near = {name: part.to_dict() for name, part in parts.items() if part is not None}
    return {"standing": standing, "against_target": near}


def identity(suspect: Suspect, contender: Contender) -> dict[str, Any]:
    """What makes two results one."""
    return {
        "schema": SCHEMA,
        "model": suspect.name,
        "weights": suspect.opened.digest,
        "method": contender.label,
        "kind": "detector" if contender.is_detector else "repair",
        "budget": contender.budget,
        "settings": contender.method.to_dict(),
        "seed": suspect.seed,
    }


def chosen(only: Sequence[str], limit: float, shape: tuple[int, int, int]) -> list[Contender]:
    """Each method of the catalog at one budget, or those named at whichever they are named; the cheapest first."""
    listed = {entry.name for entry in catalog()}
    every = [one for one in contenders() if one.method.component_name in listed]
    labels = {one.label for one in every}
    unknown = sorted({*only} - labels)
    if unknown:
        raise SystemExit(f"--only {unknown[0]} is no method; there are {', '.join(sorted(labels))}.")
    found = [one for one in every if one.label in only]
    if not only:
        fits = {one.label for one in every if one.budget == "published" and one.method.cost(shape) <= limit}
        short = {one.method.component_name for one in every if one.budget == "short"}
        full = fits | {one.label for one in every if one.label not in short and one.budget == "published"}
        found = [one for one in every if (one.method.component_name in full) == (one.budget == "published")]
    return sorted(found, key=lambda one: one.method.cost(shape))


def work(suspects: Sequence[Suspect], methods: Sequence[Contender]) -> Iterator[tuple[Suspect, Contender]]:
    """Each method on each model; what averages needs another model than the clean one to average with."""
    sibling = Checkpoint.open(resolve(f"packaged:{SIBLING}")).sealed()
    for one in methods:
        for suspect in suspects:
            if not needs_sibling(type(one.method)):
                yield suspect, one
            elif suspect.name != SIBLING:
                bound = one.method.with_sibling(sibling)  # type: ignore[attr-defined]
                yield suspect, Contender(bound, one.budget, one.score)


def stored(path: Path, wanted: dict[str, Any]) -> dict[str, Any] | None:
    """A result that is there, if it is the same work."""
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    differing = [key for key, value in wanted.items() if found.get(key) != json.loads(json.dumps(value))]
    if differing:
        raise SystemExit(f"{path} has another {differing[0]}; give another --folder, or remove the file.")
    return found


def before(suspect: Suspect, folder: Path) -> list[dict[str, Any]]:
    """The model as it is, measured once."""
    path = folder / suspect.name / "before.json"
    wanted: dict[str, Any] = {"weights": suspect.opened.digest, "seed": suspect.seed}
    found = stored(path, wanted)
    if found is None:
        effect = suspect.yardstick.measure(suspect.opened.sealed(), "before", default_device())
        found = {**wanted, "estimates": [estimate.to_dict() for estimate in effect.estimates]}
        write_atomic(path, json.dumps(found, indent=2) + "\n")
    return list(found["estimates"])


def merge(folder: Path, output: Path) -> None:
    """All results of the folder as one file, by kind and method."""
    found = [json.loads(path.read_text()) for path in folder.glob("*/*.json") if path.name != "before.json"]
    order = sorted(found, key=lambda entry: (entry["kind"], entry["method"], MODELS.index(entry["model"])))
    told = {
        "schema": SCHEMA,
        "aim": AIM,
        "device": f"{platform.machine()} {default_device().type}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "results": order,
    }
    write_atomic(output, json.dumps(told, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def main() -> None:
    """Measure what is missing, print, merge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="labels: terd, terd-short")
    parser.add_argument("--published", action="store_true", help="published budgets whatever they cost")
    parser.add_argument("--limit", type=int, default=200_000, help="network calls up to which a budget is published")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="say what would run, and stop")
    parser.add_argument("--folder", type=Path, default=Path("runs/defenses"), help="one file for each result")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "defenses.json")
    options = parser.parse_args()
    suspects = [Suspect(name, options.seed) for name in options.models]
    limit = float("inf") if options.published else options.limit
    methods = chosen(options.only, limit, suspects[0].opened.shape)
    for suspect, contender in work(suspects, methods):
        calls = contender.method.cost(suspect.opened.shape)
        path = options.folder / suspect.name / f"{contender.label}.json"
        entry = stored(path, identity(suspect, contender))
        if entry is None and options.dry_run:
            print(f"{contender.label} on {suspect.name}: {calls:,} network calls", flush=True)
        elif entry is None:
            entry = run(suspect, contender, [] if contender.is_detector else before(suspect, options.folder))
            write_atomic(path, json.dumps(entry, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
            print(f"{contender.label} on {suspect.name}: {_told(entry['cost'])}", flush=True)
            merge(options.folder, options.output)
    if not options.dry_run:
        merge(options.folder, options.output)


if __name__ == "__main__":
    main()
