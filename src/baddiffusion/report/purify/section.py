"""Receipts of several models as a section of the docs: the repair beside the others, at as many network calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baddiffusion.report.kit.markdown import markdown_table
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import number, target_words, trigger_words
from baddiffusion.report.purify.words import (
    count_words,
    round_words,
    strongest,
    switch_words,
    to_original,
    value_words,
)

__all__ = ["purify_section"]


def purify_section(results: Mapping[str, Any]) -> str:
    """What ``benchmarks/purify.py`` measured, as Markdown.

    Args:
        results: its file.
    """
    return "\n\n".join(
        [
            f"Made by `python benchmarks/purify.py` on {results['device']}, {results['threads']} thread"
            f"{'' if results['threads'] == 1 else 's'}, torch {results['torch']}. In brackets the 95 % interval. The "
            f"true trigger is read from the card, to score; neither scan nor repair sees it.",
            *(_one(receipt) for receipt in results["receipts"]),
        ]
    )


def _one(receipt: Mapping[str, Any]) -> str:
    truth = "no backdoor"
    if receipt["card"]:
        attack, trigger, target = receipt["card"]
        told = ", ".join([attack["name"], *(f"{k} {v}" for k, v in attack.items() if k in ("sampler", "shift"))])
        truth = f"{told}: {trigger_words(trigger)} → {target_words(target)}"
    parts = [f"**`{receipt['named']}`** ({truth}), scanned as {receipt['verdict_before']['outcome']}: "
             f"**{receipt['outcome']}**."]  # fmt: skip
    if not receipt["compared"]:
        return parts[0]
    before = strongest(receipt, "before")
    head = ["repair", "network calls", "s", "recovered trigger", "true trigger", "MSE to its target", "kd_efflite0"]
    rows = [head, ["none", "–", "–", count_words(before), *_score(receipt["score_before"]), "–"]]
    for row in receipt["compared"]:
        told = find(row["estimates"], "asr", **_where(before)) if before is not None else None
        named = f"`{row['method']}` {row['words']}".rstrip()
        cells = [named, number(row["network_calls"]), f"{row['seconds']:.0f}", count_words(told), *_score(row["score"])]
        rows.append([*cells, value_words(to_original(row))])
    after = receipt["verdict_after"]
    return "\n\n".join(
        [
            *parts,
            markdown_table(rows),
            f"kd_efflite0 compares 256 ordinary pictures with 256 of the model as it came. A fresh scan of the "
            f"repaired model ({number(after['network_calls'])} calls): {after['outcome']}.",
            *(["\n".join(f"* {line}" for line in lines)] if (lines := _lines(receipt)) else []),
        ]
    )


def _lines(receipt: Mapping[str, Any]) -> list[str]:
    """A line for every round of several, and for every free switch."""
    rounds = [line[0].upper() + line[1:] for line in round_words(receipt)] if "rounds" in receipt else []
    return [*rounds, *switch_words(receipt)]


def _where(estimate: Mapping[str, Any]) -> dict[str, Any]:
    return {key: estimate["protocol"][key] for key in ("finding", "family")}


def _score(estimates: Any) -> list[str]:
    rate = find(estimates, "asr")
    how = "" if rate is None else f", {rate['protocol']['sampler']} {rate['protocol']['steps']}"
    return [f"{count_words(rate)}{how}", value_words(find(estimates, "mse"))]
