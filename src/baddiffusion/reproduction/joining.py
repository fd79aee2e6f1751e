"""The paper's numbers beside ours, line by line. Numbers of two metrics never stand for each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from baddiffusion.metrics import FIRES, Estimate, over_seeds
from baddiffusion.reproduction.experiments import Experiment, Preset
from baddiffusion.reproduction.lines import Label, Line
from baddiffusion.reproduction.paper import PaperRow

__all__ = ["Reading", "State", "command_of", "join"]

State = Literal["measured", "failed implant", "not run", "cell failed"]


@dataclass(frozen=True)
class Reading:
    """What is known of one line.

    Args:
        line: the line.
        state: ``measured`` if all of it is there; else why not.
        estimates: its numbers.
        implant: success rate of the attack that the model was made for, without clipping; None where unknown.
    """

    line: Line
    state: Literal["measured", "not run", "cell failed"]
    estimates: tuple[Estimate, ...] = ()
    implant: Estimate | None = None


def join(experiment: Experiment, preset: Preset, readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Make the table: our lines in their order, the paper's numbers beside them, then what only the paper has.

    A line whose model did not take the backdoor up is a *failed implant*: its success rate under the sampler that the
    attack was made for, unclipped, is below one half. That another sampler or clipping silences a backdoor is a result,
    no failed implant.

    Args:
        experiment: whose table.
        preset: for the commands that run what is missing.
        readings: one for each line and seed.

    Returns:
        Rows as the results file has them.
    """
    groups: dict[str, list[Reading]] = {}
    for reading in readings:
        groups.setdefault(json.dumps(dict(reading.line.labels)), []).append(reading)
    numbers: dict[str, list[PaperRow]] = {}
    for row in experiment.rows:
        numbers.setdefault(_place(experiment, experiment.labels(row)), []).append(row)
    rows, met = [], set()
    for group in groups.values():
        place = _place(experiment, group[0].line.place)
        met.add(place)
        rows.append(_row(group, numbers.get(place, []), command_of(experiment, preset)))
    for place, found in numbers.items():
        if place not in met:
            rows.append(_paper_only(experiment, found))
    return rows


def command_of(experiment: Experiment, preset: Preset) -> str:
    """What runs an experiment, and goes on where it stopped.

    Example:
        >>> from baddiffusion.reproduction.experiments import experiment_named
        >>> command_of(experiment_named("samplers"), "mini")
        'baddiffusion reproduce samplers --preset mini'
    """
    return f"baddiffusion reproduce {experiment.name} --preset {preset}"


def _place(experiment: Experiment, labels: Mapping[str, Label]) -> str:
    return json.dumps([labels[key] for key in experiment.keys])


def _row(group: Sequence[Reading], numbers: Sequence[PaperRow], command: str) -> dict[str, Any]:
    done = [reading for reading in group if reading.state == "measured"]
    line = (done or group)[0].line
    told: dict[str, Any] = {
        "labels": dict(line.labels),
        "paper": _numbers(numbers, line.labels.get("rate")),
        "ours": [estimate.to_dict() for estimate in _together(done)],
        "run": line.source.key or None,
        "state": _state(group, done),
        "seeds": len(done),
    }
    if len(group) > 1:
        told["runs"] = [reading.line.source.key for reading in group]
    if line.source.step is not None:
        told["snapshot"] = line.source.step
    return told if len(done) == len(group) else {**told, "command": command}


def _paper_only(experiment: Experiment, numbers: Sequence[PaperRow]) -> dict[str, Any]:
    return {
        "labels": experiment.labels(numbers[0]),
        "paper": _numbers(numbers),
        "ours": [],
        "run": None,
        "state": "not run",
        "seeds": 0,
        "command": command_of(experiment, "paper"),
    }


def _numbers(rows: Sequence[PaperRow], rate: Label | None = None) -> list[dict[str, Any]]:
    """The paper's numbers; one that was made at another rate than ours says so in its name."""
    return [
        {
            "metric": row.measure if rate in (None, row.rate) else f"{row.measure} at rate {row.rate:g}",
            "value": row.value,
            "note": row.note,
        }
        for row in rows
    ]


def _state(group: Sequence[Reading], done: Sequence[Reading]) -> State:
    if not done:
        return "cell failed" if any(reading.state == "cell failed" for reading in group) else "not run"
    rates = [reading.implant.value for reading in done if reading.implant is not None and reading.line.is_backdoored]
    return "failed implant" if rates and sum(rates) / len(rates) < FIRES else "measured"


def _together(done: Sequence[Reading]) -> list[Estimate]:
    """The numbers of one seed as they are; of several, their mean with an interval over seeds.

    Numbers that were made in different ways, such as on other hardware, are not averaged: they stand beside each other.
    """
    if len(done) < 2:
        return [estimate for reading in done for estimate in reading.estimates]
    found: dict[str, list[tuple[Estimate, int]]] = {}
    for reading in done:
        for estimate in reading.estimates:
            made = json.dumps([estimate.name, estimate.n, dict(estimate.protocol)], sort_keys=True)
            found.setdefault(made, []).append((estimate, reading.line.source.recipe.seed))
    return [
        over_seeds([one for one, _ in group], [seed for _, seed in group]) if len(group) > 1 else group[0][0]
        for group in found.values()
    ]
