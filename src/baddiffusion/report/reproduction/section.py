"""The paper's numbers beside ours, as a table and as a section of a page. Each metric has a column of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baddiffusion.report.kit.markdown import interval, markdown_table
from baddiffusion.report.kit.wording import percent

__all__ = ["reproduction_rows", "reproduction_section"]

SHARES = ("asr", "false_trigger_rate")
NOT_SHOWN = ("mse_float",)
MADE_BY = ("method", "sampler", "steps", "clip", "corruption", "skipped_steps", "device")


def reproduction_rows(result: Mapping[str, Any]) -> list[list[str]]:
    """Head and rows: labels, the paper's numbers, ours with their intervals, and what became of the row.

    Numbers of the paper that only another preset has rows for are left to the sentences about what was not run.

    Args:
        result: what ``baddiffusion reproduce`` wrote.

    Example:
        >>> paper = [{"metric": "FID", "value": 8.53, "note": ""}]
        >>> row = {"labels": {"rate": 0.05}, "paper": paper, "ours": [], "state": "not run", "seeds": 0}
        >>> reproduction_rows({"rows": [row]})
        [['rate', 'paper: FID', 'seeds', 'state'], ['0.05', '8.53', '0', 'not run']]
    """
    rows = [row for row in result["rows"] if row.get("command") in (None, result.get("command"))]
    labels = _each(label for row in rows for label in row["labels"])
    metrics = _each(entry["metric"] for row in rows for entry in row["paper"])
    names = _each(_column(estimate) for row in rows for estimate in _shown(row))
    table = [[*labels, *(f"paper: {metric}" for metric in metrics), *(f"ours: {name}" for name in names)]]
    table[0] += ["seeds", "state"]
    for row in rows:
        published = {entry["metric"]: f"{entry['value']:g}" for entry in row["paper"]}
        measured = {_column(estimate): _cell(estimate) for estimate in _shown(row)}
        table.append(
            [
                *(_label(row["labels"].get(label)) for label in labels),
                *(published.get(metric, "–") for metric in metrics),
                *(measured.get(name, "–") for name in names),
                str(row["seeds"]),
                row["state"],
            ]
        )
    return table


def reproduction_section(result: Mapping[str, Any]) -> str:
    """The table with everything that is needed to read it, as Markdown.

    Args:
        result: what ``baddiffusion reproduce`` wrote.
    """
    parts = [
        f"## {result['title']} ({', '.join(result['paper'])})",
        f"`{result['command']}`",
        *result.get("differs", ()),
        markdown_table(reproduction_rows(result)),
        _protocols(result["rows"]),
    ]
    if result.get("hardware"):
        parts.append(f"Made on: {'; '.join(result['hardware'])}.")
    caveats = _each(caveat for row in result["rows"] for estimate in _shown(row) for caveat in estimate["caveats"])
    parts += [f"Caveat: {caveat}." for caveat in caveats]
    if result["not_run"]:
        parts.append("\n".join(["Not run:", "", *(f"* {sentence}" for sentence in result["not_run"])]))
    return "\n\n".join(part for part in parts if part)


def _shown(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [estimate for estimate in row["ours"] if estimate["name"] not in NOT_SHOWN]


def _column(estimate: Mapping[str, Any]) -> str:
    """The metric's name, and where several numbers of it stand in one row, what tells them apart."""
    protocol = estimate["protocol"]
    if "region" in protocol:
        return f"{estimate['name']}, {protocol['region']}, t = {protocol['timestep']}"
    return f"{estimate['name']}, {protocol['epoch']}" if "epoch" in protocol else estimate["name"]


def _cell(estimate: Mapping[str, Any]) -> str:
    if estimate["name"] not in SHARES:
        return interval(estimate)
    known = estimate["low"] is not None
    return percent(estimate["value"]) + (f" [{percent(estimate['low'])}, {percent(estimate['high'])}]" if known else "")


def _label(value: str | int | float | None) -> str:
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _protocols(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence for each column: n and how its numbers were made; where that differs, every way."""
    ways: dict[str, list[str]] = {}
    for row in rows:
        for estimate in _shown(row):
            protocol = estimate["protocol"]
            over = protocol.get("over") == "seeds"
            count = f"{estimate['n']} seeds" if over else f"n = {estimate['n']}"
            told = ", ".join([count, *(f"{key} {protocol[key]}" for key in MADE_BY if protocol.get(key) is not None)])
            name = estimate["name"]
            ways.setdefault(name, [])
            ways[name] += [] if told in ways[name] else [told]
    said = [f"* `{name}`: {'; '.join(told)}" for name, told in ways.items()]
    return "\n".join(["In brackets the 95 % interval. How our numbers were made:", "", *said]) if said else ""


def _each(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
