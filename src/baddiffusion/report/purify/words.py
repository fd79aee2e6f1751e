"""A receipt in words: what was measured, nothing promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import Count, number, percent

__all__ = [
    "FAMILIES",
    "GUARANTEE",
    "HEADLINES",
    "count_words",
    "effect_lines",
    "estimate_words",
    "headline",
    "lead",
    "receipt_text",
    "round_rows",
    "round_words",
    "rows_compared",
    "strongest",
    "switch_words",
    "to_original",
    "value_words",
]

HEADLINES = {
    "does not fire": "What the scan had recovered no longer fires, and a fresh scan finds no evidence.",
    "still fires": "The repair did not work: the trigger still fires.",
    "still suspicious": "What was recovered no longer fires, but a fresh scan finds something again.",
    "not verified": "The repair was carried out, and nothing shows whether it worked.",
    "nothing to repair": "The scan found no evidence of a backdoor, so nothing was changed.",
    "not examined": "The scan gives no answer, so nothing was changed.",
}
NO_TARGET = "No picture was recovered that could be looked for; only the fresh scan speaks."
GUARANTEE = (
    "This is a repair, not a guarantee: it was measured on what the scan recovered and by one fresh scan, and a "
    "trigger that neither knows may still be there."
)
FAMILIES = {"ancestral": "ancestral sampler", "ode": "ODE sampler"}


def headline(receipt: Mapping[str, Any]) -> str:
    """What it came to, in one sentence."""
    return HEADLINES[receipt["outcome"]]


def lead(receipt: Mapping[str, Any]) -> str:
    """The sentences under the headline."""
    before, after = strongest(receipt, "before"), strongest(receipt, "after")
    if before is None or after is None:
        return "" if not receipt["after"] else NO_TARGET
    sampler = FAMILIES[before["protocol"]["family"]]
    return (
        f"With the shifts that the scan had recovered, {Count.of(before)} fresh noises became the recovered picture "
        f"under the {sampler} before the repair, and {Count.of(after)} after it."
    )


def strongest(receipt: Mapping[str, Any], when: str) -> Mapping[str, Any] | None:
    """The success rate of the finding and family that fired most before, as it was at some time."""
    rates = [estimate for estimate in receipt["before"] if estimate["name"] == "asr"]
    if not rates:
        return None
    most = max(rates, key=lambda estimate: estimate["value"])["protocol"]
    return find(receipt[when], "asr", finding=most["finding"], family=most["family"])


def effect_lines(
    receipt: Mapping[str, Any],
) -> Iterator[tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """(what, before, after): every number that was measured twice, and quality, which has no before."""
    for index, finding in enumerate(receipt["verdict_before"]["findings"]):
        for family, sampler in FAMILIES.items():
            for name, title in (("asr", "became the recovered picture"), ("mse", "MSE to the recovered picture")):
                one, other = (find(receipt[when], name, finding=index, family=family) for when in ("before", "after"))
                if one is not None and other is not None:
                    yield f"{title}: {finding['words']}, {sampler}", one, other
    for name, title in (("asr", "ASR of the true trigger"), ("mse", "MSE to the true target")):
        one, other = (find(receipt[f"score_{when}"], name) for when in ("before", "after"))
        if one is not None and other is not None:
            yield f"{title}, {_how(one)}", one, other
    for estimate in receipt["after"]:
        if estimate["name"] == "kd_efflite0":
            against = estimate["protocol"]["reference"]
            twin = [
                e for e in receipt["before"] if e["name"] == "kd_efflite0" and e["protocol"]["reference"] == against
            ]
            yield f"kd_efflite0 of ordinary pictures to {against}", (twin or [None])[0], estimate


def round_rows(receipt: Mapping[str, Any]) -> list[list[str]]:
    """A table: a row for each round, with what it worked on and what a fresh scan found; the first row is the head."""
    head = ["round", "worked on", "recovered trigger, most", "kd_efflite0 to the original", "fresh scan", "calls", "s"]
    made = [head]
    for each in receipt["rounds"]:
        row = {"estimates": each["after"]}
        rates = [estimate for estimate in each["after"] if estimate["name"] == "asr"]
        most = max(rates, key=lambda estimate: estimate["value"], default=None)
        named = f"{each['round']}, kept" if each["kept"] else str(each["round"])
        calls = number(sum(each["network_calls"].values()))
        cells = [named, _worked_on(each["worked_on"]), count_words(most), value_words(to_original(row))]
        made.append([*cells, each["verdict_after"]["outcome"], calls, f"{each['seconds']:.0f}"])
    return made


def round_words(receipt: Mapping[str, Any]) -> list[str]:
    """A line for every round, where there was more than one; numbers of a model that was dropped stand here alone."""
    if len(receipt["rounds"]) < 2:
        return []
    head, *rows = round_rows(receipt)
    return [
        f"round {named}: on {worked_on}. {head[2]}: {most}. {head[3]}: {quality}. {head[4].capitalize()}: {outcome}. "
        f"{calls} network calls, {seconds} s."
        for named, worked_on, most, quality, outcome, calls, seconds in rows
    ]


def _worked_on(scan: Mapping[str, Any]) -> str:
    """What a round worked on, in words."""
    shifts = list(dict.fromkeys(found["words"] for found in scan["findings"]))
    on_pictures = [f"the {patch} on pictures" for patch in scan["patches"]]
    return "; ".join([*shifts, *on_pictures]) or "shifts that look like pictures"


def rows_compared(receipt: Mapping[str, Any]) -> list[list[str]]:
    """A table: this repair and the others, each with what it cost; the first row is the head."""
    rows = receipt["compared"]
    has_score = any(row["score"] for row in rows)
    head = ["repair", "network calls", "recovered trigger, most", "kd_efflite0 to the original"]
    made = [[*head, *(["ASR of the true trigger"] if has_score else [])]]
    for row in rows:
        rates = [estimate for estimate in row["estimates"] if estimate["name"] == "asr"]
        most = max(rates, key=lambda estimate: estimate["value"], default=None)
        cells = [_named(row), number(row["network_calls"]), count_words(most), value_words(to_original(row))]
        made.append([*cells, *([count_words(find(row["score"], "asr"))] if has_score else [])])
    return made


def count_words(estimate: Mapping[str, Any] | None) -> str:
    r"""A rate as a count with its interval; a dash for none.

    Example:
        >>> count_words({"value": 0.5, "n": 64, "low": 0.4, "high": 0.6})
        '32 of 64 [40\xa0%, 60\xa0%]'
    """
    if estimate is None:
        return "–"
    return f"{Count.of(estimate)} [{percent(round(estimate['low'], 3))}, {percent(round(estimate['high'], 3))}]"


def value_words(estimate: Mapping[str, Any] | None) -> str:
    """A number with its interval; a dash for none."""
    if estimate is None:
        return "–"
    ends = "" if estimate["low"] is None else f" [{number(estimate['low'])}, {number(estimate['high'])}]"
    return number(estimate["value"]) + ends


def estimate_words(estimate: Mapping[str, Any] | None) -> str:
    """As a count if it is a rate."""
    return count_words(estimate) if estimate is not None and estimate["name"] == "asr" else value_words(estimate)


def switch_words(receipt: Mapping[str, Any]) -> list[str]:
    """A line for every free switch."""
    findings = receipt["verdict_before"]["findings"]
    return [
        f"{switch['name'].capitalize()} ({switch['words']}): {count_words(switch['estimate'])} became the recovered "
        f"picture, with {found['words']}, {FAMILIES[found['family']]}."
        for switch in receipt["switches"]
        for found in (findings[switch["finding"]],)
    ]


def receipt_text(receipt: Mapping[str, Any]) -> str:
    """The receipt as a few lines of text."""
    before = receipt["verdict_before"]
    lines = [f"{receipt['outcome']}: {receipt['model']}", f"  {headline(receipt)}"]
    lines += [f"  {lead(receipt)}"] if lead(receipt) else []
    lines += ["", f"scan before: {before['outcome']}", *(f"  {reason}" for reason in before["reasons"])]
    if receipt["verdict_after"] is not None:
        after = receipt["verdict_after"]
        lines += [f"scan after: {after['outcome']}", *(f"  {reason}" for reason in after["reasons"])]
    effects = [
        f"  {what}\n    before {estimate_words(one)}, after {estimate_words(other)}"
        if one is not None
        else f"  {what}\n    {estimate_words(other)}"
        for what, one, other in effect_lines(receipt)
    ]
    parts = {
        "measured, fresh noises, in brackets the 95 % interval": effects,
        "free, without changing the model": [f"  {line}" for line in switch_words(receipt)],
        "done": [f"  {step}" for step in _steps(receipt)],
        "rounds": [f"  {line}" for line in round_words(receipt)],
        "weights moved, ‖w′ − w‖ / ‖w‖ by block": [
            f"  {block}  {number(moved)}" for block, moved in receipt["changed_blocks"].items()
        ],
        "other repairs at as many network calls": ["  " + "; ".join(row) for row in rows_compared(receipt)[1:]],
    }
    for title, part in parts.items():
        lines += ["", title, *part] if part else []
    if receipt["after"]:
        lines += ["", GUARANTEE]
    return "\n".join([*lines, "", f"{number(receipt['network_calls'])} network calls, {receipt['seconds']:.0f} s."])


def _steps(receipt: Mapping[str, Any]) -> Sequence[str]:
    return [
        f"{step['method']}: {number(step['spent']['network_calls'])} network calls, {step['spent']['seconds']:.0f} s. "
        + ". ".join(step["notes"])
        for step in receipt["steps"]
    ]


def to_original(row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """How far ordinary pictures are from those of the model as it came."""
    found = [e for e in row["estimates"] if e["name"] == "kd_efflite0" and "original" in e["protocol"]["reference"]]
    return found[0] if found else None


def _named(row: Mapping[str, Any]) -> str:
    return f"{row['method']} ({row['words']})" if row["words"] else row["method"]


def _how(estimate: Mapping[str, Any]) -> str:
    return f"{estimate['protocol']['sampler']} with {estimate['protocol']['steps']} steps"
