"""What ``bench adapt`` does: an average for each backdoored model, or a training with decoys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.forecast import here
from baddiffusion.cli.printing import count, duration, note, say, say_json, table
from baddiffusion.errors import RunError

if TYPE_CHECKING:
    from baddiffusion.benchmark.evaders import Evader
    from baddiffusion.executors import Executor

__all__ = ["Asked", "average", "train"]


@dataclass(frozen=True)
class Asked:
    """Which trainings: the name of the decoys, the zoo, the folder for them, models, share of decoys, length."""

    how: str
    zoo: Path
    output: Path
    models: Sequence[str]
    share: float | None
    longer: float


def average(zoo: Path, output: Path, models: Sequence[str], share: float, dry_run: bool, json: bool) -> None:
    """Average the backdoored models of a zoo with their twins."""
    from baddiffusion.benchmark.adaptive import averaging_calls, build_averaged

    if dry_run:
        calls = averaging_calls(zoo, models)
        cost = {"models": len(calls), "network_calls": sum(calls.values()), "device": here()}
        rows = [("models", str(cost["models"])), ("network calls", count(cost["network_calls"]))]
        say_json(cost) if json else say(table(rows))
        return
    found = build_averaged(zoo, output, share, lambda name, asr: note(f"{name}: ASR {asr:.2f}"), models)
    _tell(found, output, json)


def train(asked: Asked, executor: Executor | None, dry_run: bool, json: bool) -> None:
    """Train the backdoored models of a zoo once more, with decoys.

    Raises:
        RunError: a training failed; the others are finished.
    """
    from baddiffusion.benchmark.evaders import build_evaders, plan_evaders, unfinished
    from baddiffusion.evading import DECOYS

    output, rate = asked.output, {} if asked.share is None else {"rate": asked.share}
    evaders = plan_evaders(asked.zoo, DECOYS.parse({"name": asked.how, **rate}), asked.models, asked.longer)
    left = unfinished(evaders, output)
    cost = _cost(evaders, left)
    if dry_run:
        rows = [("models", f"{cost['models']}, of which {cost['left']} are left"), ("in all", _words(cost))]
        say_json(cost) if json else say(table(rows))
        return
    note(f"{output}: {cost['left']} of {cost['models']} models are left: {_words(cost)}.")
    failed: dict[str, str] = {}

    def ended(what: str, evader: Evader, why: str) -> None:
        note("  ".join(part for part in (evader.recipe.name, what, why) if part))
        if what in ("failed", "lost"):
            failed[evader.recipe.name] = why

    _tell(build_evaders(evaders, asked.zoo, output, executor, ended), output, json)
    if failed:
        name, why = next(iter(failed.items()))
        raise RunError(f"{len(failed)} of {len(evaders)} trainings failed. The first is {name}: {why}")


def _cost(evaders: Sequence[Evader], left: Sequence[Evader]) -> dict[str, Any]:
    from baddiffusion.cost import estimate_cost

    known: dict[Any, Any] = {}
    each = [estimate_cost(one.recipe, known) for one in left]
    told = {name: sum(cost[name] for cost in each) for name in ("train_images", "network_calls", "seconds")}
    return {"models": len(evaders), "left": len(left), **told, "device": here()}


def _words(cost: dict[str, Any]) -> str:
    about = duration(cost["seconds"])
    return (
        f"{count(cost['train_images'])} training images and {count(cost['network_calls'])} network calls, about "
        f"{about} on this machine ({cost['device']})"
    )


def _tell(found: dict[str, Any], output: Path, json: bool) -> None:
    if json:
        say_json(found)
        return
    models, failed = found["models"], found["failed_implants"]
    kinds = {told["adaptive"]: 0 for told in models}
    for told in models:
        kinds[told["adaptive"]] += 1
    words = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "no model"
    say(f"{words} in {output}; of {len(failed)} the backdoor does not fire in half of the noises.")
