"""The page of a queue: how many models got which answer, what an answer is worth, and a line for each model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from baddiffusion.errors import RunError
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.script import Script
from baddiffusion.report.kit.sortable import Column, Entry, Line, Table
from baddiffusion.report.kit.wording import number, percent
from baddiffusion.rundir import write_atomic

__all__ = ["write_queue_page"]

SCHEMA = 1
SUMMARY, PAGE = "summary.json", "index.html"
ORDER = ("backdoored", "suspicious", "inconclusive", "not examined", "waiting", "no evidence")
"""What calls for a look first."""

WORDS = {
    "backdoored": "Evidence of a backdoor was found.",
    "suspicious": "Something was found that calls for a closer look; it does not suffice for more.",
    "no evidence": "Nothing was found in what was searched. That is no certificate.",
    "inconclusive": "The scan gives no answer, or did not end. That speaks neither for the model nor against it.",
    "not examined": "The network was not looked at. That speaks neither for the model nor against it.",
    "waiting": "Not scanned yet.",
}


def write_queue_page(folder: Path) -> Path:
    """Write ``index.html`` from ``summary.json``, and from nothing else.

    Args:
        folder: of the queue.

    Returns:
        The page's path. Its links are relative, so that the folder can be moved as a whole.

    Raises:
        RunError: there is no summary, it is damaged or another version's, or the page cannot be written.
    """
    path = folder / SUMMARY
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        if summary["schema"] != SCHEMA:
            raise RunError(f"{path} has schema {summary['schema']}; this version reads schema {SCHEMA}. Queue again.")
        text = environment().get_template("queue.html").render(shown=_Shown(summary))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path} is damaged ({error}); give the command of the queue again.") from None
    write_atomic(folder / PAGE, text)
    return folder / PAGE


@dataclass
class _Shown:
    """What the template asks for."""

    summary: dict[str, Any]

    @cached_property
    def script(self) -> Script:
        """What sorts the table."""
        return Script()

    @property
    def title(self) -> str:
        """The answer in one line."""
        models, counts = len(self.summary["models"]), self.summary["counts"]
        said = [f"{number(counts[outcome])} {outcome}" for outcome in ORDER if counts[outcome]]
        return f"{number(models)} model{'' if models == 1 else 's'}: {', '.join(said)}"

    @property
    def counts(self) -> list[tuple[str, int, str]]:
        """(outcome, count, what it means), of those that occur."""
        counts = self.summary["counts"]
        return [(outcome, counts[outcome], WORDS[outcome]) for outcome in ORDER if counts[outcome]]

    @property
    def distinct(self) -> str:
        """How much of it is the same."""
        contents, weights = self.summary["contents"], self.summary["weights"]
        return (
            f"Folders with different contents: {number(contents)}; networks with different weights that could be "
            f"examined: {number(weights)}. What is the same is scanned once."
        )

    @property
    def worth(self) -> list[dict[str, str]]:
        """A line for each kind of verdict."""
        return [
            {
                "called": " or ".join(entry["called"]),
                "false_alarms": _rate(entry["false_alarms"]),
                "detections": _rate(entry["detections"]),
                "value": _between(entry["predictive_value"]),
            }
            for entry in self.summary["worth"]["verdicts"]
        ]

    @property
    def prevalence(self) -> str:
        """Stated, not measured."""
        return percent(self.summary["worth"]["prevalence"])

    @cached_property
    def table(self) -> Table:
        """A line for each model; what calls for a look first."""
        columns = (
            Column("Model"), Column("Why"), Column("Files"), Column("p", "", True), Column("Calls", "", True),
            Column("Seconds", "", True), Column("Weights", "sha256"), Column("Outcome"),
        )  # fmt: skip
        models = sorted(self.summary["models"], key=lambda model: (_rank(model), model["name"]))
        return Table(columns, tuple(map(_line, models)))

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The same for every model."""
        asked, limits = self.summary["asked"], self.summary["limits"]
        budget = f"{number(asked['budget'])} network calls" if asked["budget"] else "the files alone"
        entries = [
            ("seed", str(asked["seed"])),
            ("budget", budget),
            ("compared with", asked["base"]),
            ("time for each", f"{limits['seconds']:g} s" if limits["seconds"] else "any"),
            ("memory for each", f"{limits['memory'] / (1 << 30):g} GiB" if limits["memory"] else "any"),
            ("version", asked["version"]),
        ]
        return [(name, value) for name, value in entries if value]


def _rank(model: dict[str, Any]) -> int:
    """Alarms of the files come right behind what the network itself shows."""
    place = ORDER.index(model["outcome"])
    return min(place, 2) if model["file_alarms"] else place + (place > 1)


def _line(model: dict[str, Any]) -> Line:
    outcome, alarms, p_value = model["outcome"], len(model["file_alarms"]), model["p_value"]
    name = model["name"] + (f" @ {model['revision'][:12]}" if model["revision"] else "")
    shared = f"same files as {model['shown_as']}" if model["shown_as"] else ""
    why = " ".join([*model["why"], *model["file_alarms"]])
    entries = (
        Entry(name, name, shared),
        Entry(why, why),
        Entry(f"{alarms} alarm{'' if alarms == 1 else 's'}" if alarms else "–", str(alarms)),
        Entry("–" if p_value is None else f"{p_value:.1g}", p_value),
        Entry(number(model["network_calls"]) if model["network_calls"] else "–", float(model["network_calls"])),
        Entry(f"{model['seconds']:.1f}" if model["scan"] else "–", float(model["seconds"])),
        Entry(model["weights"][:12] or "–", model["weights"] or None),
        Entry(outcome, str(ORDER.index(outcome))),
    )
    return Line(outcome, entries, quote(f"{model['scan']}/report.html") if model["scan"] else "")


def _rate(rate: dict[str, Any]) -> str:
    return f"{rate['k']} of {rate['n']} ({_between(rate)})"


def _between(entry: dict[str, Any]) -> str:
    return f"{percent(entry['low'])} to {percent(entry['high'])}"
