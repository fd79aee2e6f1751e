"""The tables of the leaderboard, from what a benchmark has found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.benchmark.claims import Claim
from baddiffusion.benchmark.repair_results import AttackerRow, RepairRow
from baddiffusion.benchmark.results import DetectorRow, grouped
from baddiffusion.metrics import Estimate
from baddiffusion.report.kit.tables import line
from baddiffusion.report.kit.wording import number, percent
from baddiffusion.report.sweep.sortable import Column, Entry, Line, Table

__all__ = ["attackers_table", "cells_table", "claims_table", "detectors_table", "groups_table", "repairs_table"]

RECOVERED = {"mask_iou": "Patch found", "value_error": "Value error", "target_ssim": "Target found"}
UNDER = {"mask_iou": "mask IoU", "value_error": "RMS in the mask", "target_ssim": "SSIM"}
SHARES = ("detected", "false_alarms", "asr", "asr_recovered", "false_trigger_rate")


def counted(estimate: Estimate | None) -> Entry:
    """A number with its interval; of a share of models the count, which is what n is about."""
    if estimate is None:
        return Entry("–")
    shown = line(estimate.to_dict())
    stem = estimate.name.removesuffix("_change")
    said = percent if stem in SHARES else number
    text = said(estimate.value)
    if estimate.unit == "share of models":
        text = f"{round(estimate.value * estimate.n)} of {estimate.n}"
    interval = "" if estimate.low is None else f"{said(estimate.low)} to {said(estimate.high or 0.0)}"
    return Entry(text, estimate.value, interval, (("n", str(estimate.n)), *shown.protocol), shown.caveats)


def detectors_table(rows: Sequence[DetectorRow]) -> Table:
    """A line for each detector, the best area first."""
    columns = (
        Column("Detector"),
        Column("Area under ROC", "0.5 is chance", True),
        Column("Detected", "of backdoored models", True),
        Column("False alarms", "of clean models", True),
        Column("At most", "false alarms asked for", True),
        *(Column(title, UNDER[name], True) for name, title in RECOVERED.items()),
        Column("Network calls", "for one model", True),
        Column("Seconds", "for one model", True),
        Column("No answer", "inconclusive, failed", True),
        Column("Judged on"),
    )
    ordered = sorted(rows, key=lambda row: -1.0 if row.area is None else row.area.value, reverse=True)
    return Table(columns, tuple(_detector(row) for row in ordered))


def groups_table(rows: Sequence[DetectorRow], models: Mapping[str, Any], key: str, words: str) -> Table:
    """Detection by what the backdoored models differ in: a line for each group, a column for each detector."""
    shown = {row.label: {name: (found, lost) for name, found, lost in grouped(row, models, key)} for row in rows}
    names = sorted({name for found in shown.values() for name in found})
    labels = [label for label, found in shown.items() if found]
    lines = []
    for name in names:
        entries = [_in_group(shown[label].get(name)) for label in labels]
        lines.append(Line("", (Entry(name, name), *entries, Entry("", ""))))
    columns = (Column(words[0].upper() + words[1:]), *(Column(label, "", True) for label in labels), Column(""))
    return Table(columns, tuple(lines))


def repairs_table(rows: Sequence[RepairRow]) -> Table:
    """A line for each repair, the lowest remaining success rate first."""
    columns = (
        Column("Repair"),
        Column("Models", "", True),
        Column("Success before", "ASR, true trigger", True),
        Column("Success after", "ASR, true trigger", True),
        Column("After, recovered", "ASR, the trigger that a scan found", True),
        Column("Squared error after", "MSE to the target", True),
        Column("Quality before", "kd_efflite0, less is better", True),
        Column("Quality after", "kd_efflite0", True),
        Column("Fresh scan", "verdicts after"),
        Column("Network calls", "of the repair", True),
        Column("Given"),
        Column("State"),
    )
    ordered = sorted(rows, key=lambda row: row.after["asr"].value if "asr" in row.after else 2.0)
    return Table(columns, tuple(_repair(row) for row in ordered))


def attackers_table(rows: Sequence[AttackerRow], detectors: Sequence[DetectorRow], models: Mapping[str, Any]) -> Table:
    """What each attacker pays, and which detectors still find it."""
    labels = [row.label for row in detectors if row.headline is not None]
    columns = (
        Column("Attacker"),
        Column("Models", "", True),
        Column("Success", "ASR, own sampler", True),
        Column("Quality", "kd_efflite0", True),
        Column("Quality of clean twins", "kd_efflite0", True),
        Column("Price", "beside success and quality"),
        *(Column(f"Found by {label}", "", True) for label in labels),
        Column("Kind"),
    )
    lines = []
    for row in rows:
        found = [_found(detector, models, row) for detector in detectors if detector.headline is not None]
        price = Entry(row.price or "–", row.price or None)
        entries = (counted(row.asr), counted(row.quality), counted(row.twin_quality), price, *found)
        kind = "made to evade" if row.is_adaptive else "in the zoo"
        lines.append(Line("", (Entry(row.name, row.name), _plain(row.models), *entries, Entry(kind, kind))))
    return Table(columns, tuple(lines))


def claims_table(claims: Sequence[Claim]) -> Table:
    """What papers report beside what was measured; a claim of which nothing was measured says so."""
    columns = (
        Column("Method"),
        Column("What"),
        Column("Setting"),
        Column("Reported", "", True, "paper"),
        Column("In words", "", False, "paper"),
        Column("Measured", "", True),
        Column("State"),
    )
    lines = []
    for claim in claims:
        for measured in claim.measured or (None,):
            state = "not measured" if measured is None else f"n = {measured.n}"
            label = claim.method if measured is None else measured.label
            what = claim.metric.replace("_", " ")
            setting = "; ".join(f"{key}: {value}" for key, value in claim.setting.items())
            texts = (Entry(label, label), Entry(what, what), Entry(setting, setting))
            lines.append(
                Line(
                    "not-run" if measured is None else "",
                    (*texts, *_reported(claim), _measured(claim, measured), Entry(state, state)),
                )
            )
    return Table(columns, tuple(lines))


def cells_table(results: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> Table:
    """Every finished cell with the command that runs it again."""
    columns = (
        Column("Method"),
        Column("Model"),
        Column("Truth"),
        Column("Seed", "", True),
        Column("What came out"),
        Column("Network calls", "", True),
        Column("Seconds", "", True),
        Column("Again"),
    )
    lines = []
    for cell in results:
        told = record["models"][cell["model"]]
        said = _outcome(cell)
        texts = (cell["label"], f"{told['name']} {cell['model'][:12]}", told["counted_as"])
        spent = (_plain(cell["spent"]["network_calls"]), _plain(round(cell["spent"]["seconds"], 1)))
        command = record["cells"][cell["name"]]["command"]
        entries = (*(Entry(text, text) for text in texts), _plain(cell["seed"]), Entry(said, said), *spent)
        lines.append(Line("command", (*entries, Entry(command, command))))
    return Table(columns, tuple(lines))


def _detector(row: DetectorRow) -> Line:
    at = row.headline
    state = "no numbers" if row.trouble else row.split if row.judged else "no model"
    lost = f"{row.inconclusive}, {row.failed}"
    entries = (
        Entry(row.label, row.label),
        counted(row.area),
        counted(at.detected if at else None),
        counted(at.false_alarms if at else None),
        Entry("–") if at is None else Entry(percent(at.rate), at.rate),
        *(counted(row.recovered.get(name)) for name in RECOVERED),
        _plain(row.calls),
        _plain(row.seconds),
        Entry(lost, float(row.inconclusive + row.failed)),
        Entry(state, state),
    )
    return Line("not finished" if row.trouble else "", entries)


def _repair(row: RepairRow) -> Line:
    verdicts = ", ".join(f"{count} {word}" for word, count in row.verdicts.items()) or "–"
    state = f"{row.failed} failed" if row.failed else "done" if row.models else "not run"
    entries = (
        Entry(row.label, row.label),
        _plain(row.models),
        counted(row.before.get("asr")),
        counted(row.after.get("asr")),
        counted(row.recovered.get("after")),
        counted(row.after.get("mse")),
        counted(row.before.get("kd_efflite0")),
        counted(row.after.get("kd_efflite0")),
        Entry(verdicts, verdicts),
        _plain(row.calls),
        Entry(row.given or "–", row.given or None),
        Entry(state, state),
    )
    return Line("cell failed" if row.failed else "" if row.models else "not run", entries)


def _found(detector: DetectorRow, models: Mapping[str, Any], row: AttackerRow) -> Entry:
    """How many models of an attacker a detector flags, adaptive ones judged by the same threshold."""
    at = detector.headline
    assert at is not None
    scored = detector.adaptive if row.is_adaptive else detector.judged
    name = "adaptive" if row.is_adaptive else "attack"
    mine = [one for one in scored if one.is_backdoored and models[one.model][name] == row.name]
    if not mine:
        return Entry("–")
    count = sum(detector.flags(one) for one in mine)
    return Entry(f"{count} of {len(mine)}", count / len(mine))


def _in_group(found: tuple[Estimate, int] | None) -> Entry:
    if found is None:
        return Entry("–")
    entry, lost = counted(found[0]), found[1]
    return Entry(entry.text, entry.order, entry.interval, entry.details, (f"{lost} inconclusive",) if lost else ())


def _reported(claim: Claim) -> tuple[Entry, Entry]:
    told = claim.reported
    if told is None:
        return Entry("–"), Entry("no paper")
    value = "in words" if told.value is None else _spelled(claim, told.value)
    details = (("citation", told.citation), ("where", told.where), ("read in", told.read_in))
    return Entry(value, told.value, "", details), Entry(told.words, told.words)


def _measured(claim: Claim, measured: Any) -> Entry:
    if measured is None:
        return Entry("–", None, "", (("differs", claim.differs),))
    interval = "" if measured.low is None else f"{_spelled(claim, measured.low)} to {_spelled(claim, measured.high)}"
    details = (("n", str(measured.n)), ("hardware", ", ".join(measured.hardware)), ("again", measured.command))
    return Entry(_spelled(claim, measured.value), measured.value, interval, details, (claim.differs,))


def _spelled(claim: Claim, value: float) -> str:
    return percent(value) if claim.metric in ("detected", "false_alarms", "asr_after", "asr_change") else number(value)


def _outcome(cell: Mapping[str, Any]) -> str:
    if cell["kind"] == "repair":
        rates = [e for e in cell["after"]["estimates"] if e["name"] == "asr"]
        said = f"ASR {percent(rates[0]['value'])}, " if rates else ""
        return f"{said}fresh scan: {cell['after']['verdict']}"
    if cell["outcome"] != "measured":
        return cell["outcome"]
    return ", ".join(f"{name} {number(float(value))}" for name, value in cell["scores"].items())


def _plain(value: float | int | None) -> Entry:
    return Entry("–") if value is None else Entry(number(value), float(value))
