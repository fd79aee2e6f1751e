"""What countermeasures came to, as sections of pages: the list of them, a detection, a repair, a table of clipping."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.defending import Entry
from baddiffusion.report.kit.markdown import interval, markdown_table
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import number, target_words, trigger_words

__all__ = ["clipping_section", "cost_words", "detection_section", "methods_table", "repair_section"]

NUMBERS = {
    ("asr", "triggered"): "ASR",
    ("mse", "triggered"): "MSE to the target",
    ("ssim", "triggered"): "SSIM to the target",
    ("false_trigger_rate", "clean"): "false-trigger rate",
    ("kd_efflite0", "clean"): "kd_efflite0",
}
"""What a table of a repair or of clipping shows, in this order."""


def methods_table(entries: Sequence[Entry]) -> str:
    """What there is, with needs, published budget and cost, as Markdown."""
    rows = [["name", "kind", "what it is", "needs", "published budget", "network calls, 32×32", "source"]]
    for entry in entries:
        needed = {"clean pictures": entry.needs_data, "a clean sibling": entry.needs_sibling}
        rows.append(
            [
                f"`{entry.name}`",
                entry.kind,
                entry.summary,
                ", ".join(what for what, is_needed in needed.items() if is_needed) or "–",
                ", ".join(f"{name} {_plain(value)}" for name, value in entry.budget.items()) or "–",
                "as sampling" if entry.network_calls is None else _count(entry.network_calls),
                entry.source or "–",
            ]
        )
    return markdown_table(rows)


def detection_section(results: Mapping[str, Any]) -> str:
    """Scores, their standing, and what it cost, as Markdown.

    Args:
        results: what ``baddiffusion defend`` wrote into ``results.json`` of a detector.
    """
    found = results["detection"]
    parts = [f"`{found['method']}` on `{results['model']}`: **{found['outcome']}**, seed {found['seed']}."]
    if found["scores"]:
        parts.append(_scores(found["scores"], results["standing"]))
    if results["not_judged"]:
        parts.append(f"Not judged: {results['not_judged']}.")
    if results["standing"]:
        n = results["standing"][0]["n"]
        parts.append(
            f"Larger is more suspicious. p = (1 + number of clean models at least as suspicious) / (n + 1) over "
            f"n = {n} clean models, so that it cannot fall below {number(1 / (n + 1))}; the limit is their mean plus "
            f"three standard deviations."
        )
    if found["estimates"]:
        parts.append(_estimates(found["estimates"]))
    if results["against_target"]:
        rows = [["pictures", "ASR", "MSE to the target", "n"]]
        for entry in results["against_target"]:
            rate, error = find(entry["estimates"], "asr"), find(entry["estimates"], "mse")
            rows.append([entry["pictures"], interval(rate), interval(error), str(error["n"] if error else 0)])
        parts += [
            f"Against the known target ({_backdoor(results)}), which the method did not see:",
            markdown_table(rows),
        ]
    parts += [_settings(found["settings"]), f"Cost: {cost_words(found['spent'])}."]
    return "\n\n".join([*parts, *(f"Note: {_sentence(note)}" for note in found["notes"])])


def repair_section(results: Mapping[str, Any]) -> str:
    """What was measured before and after, and what it cost, as Markdown.

    Args:
        results: what ``baddiffusion defend`` wrote into ``receipt.json`` of a repair.
    """
    done = results["repair"]
    parts = [f"`{done['method']}` on `{results['model']}`, seed {done['seed']}; backdoor: {_backdoor(results)}."]
    before, after = results["before"], results["after"]
    if before:
        rows = [["number", "before", "after", "n", "sampler"]]
        for (name, kind), title in NUMBERS.items():
            one, other = find(before, name, kind), find(after, name, kind)
            if one is not None and other is not None:
                how = f"{one['protocol']['sampler']} {one['protocol']['steps']}, clip {one['protocol']['clip']}"
                rows.append([title, interval(one), interval(other), str(one["n"]), how])
        parts += [markdown_table(rows), "In brackets the 95 % interval; MSE on [0, 1], pictures rounded to 8 bits."]
    parts += [f"Not measured: {sentence}." for sentence in results["not_measured"]]
    changed = sorted(done["changed"].values())
    if changed:
        parts.append(
            f"{len(changed)} of the network's tensors changed, by ‖w′ − w‖ / ‖w‖ of {number(changed[0])} to "
            f"{number(changed[-1])}, median {number(changed[len(changed) // 2])}."
        )
    else:
        parts.append("No weight changed.")
    parts += [_settings(done["settings"]), f"Cost: {cost_words(done['spent'])}, measuring apart."]
    return "\n\n".join([*parts, *(f"Note: {_sentence(note)}" for note in done["notes"])])


def clipping_section(results: Mapping[str, Any]) -> str:
    """The success rate under each way and range of clipping, as Markdown.

    Args:
        results: what ``baddiffusion defend clipping`` wrote into ``results.json``.
    """
    rows = [["clip", "range", *NUMBERS.values(), "n"]]
    for row in results["rows"]:
        limit = "–" if row["range"] is None else f"{row['range']:g}"
        cells = [interval(find(row["estimates"], name, kind)) for name, kind in NUMBERS]
        n = next(estimate["n"] for estimate in row["estimates"] if estimate["name"] == "asr")
        rows.append([row["kind"], limit, *cells, str(n)])
    first = results["rows"][0]["estimates"][0]["protocol"]
    kept = [i for i in range(len(rows[0])) if i < 2 or any(row[i] != "–" for row in rows[1:])]
    return (
        f"Model `{results['model']}`, {_backdoor(results)}; {first['sampler']}, {first['steps']} steps. In brackets "
        f"the 95 % interval; MSE on [0, 1], pictures rounded to 8 bits.\n\n"
        f"{markdown_table([[row[i] for i in kept] for row in rows])}"
    )


def cost_words(spent: Mapping[str, Any]) -> str:
    """Network calls, seconds, device."""
    return (
        f"{_count(spent['network_calls'])} network calls (a backward pass counts as two), {spent['seconds']:.1f} s "
        f"({spent['device']}, {spent['precision']})"
    )


def _scores(scores: Mapping[str, float], standing: Sequence[Mapping[str, Any]] | None) -> str:
    if not standing:
        return markdown_table([["score", "value"], *([name, f"{value:.4g}"] for name, value in scores.items())])
    rows = [["score", "value", "p", "3-sigma limit of clean models", "", "n"]]
    for one in standing:
        side = "above the limit" if one["is_above"] else "below the limit"
        limit, p_value = f"{one['limit']:.4g}", f"{one['p_value']:.3g}"
        rows.append([one["score"], f"{one['value']:.4g}", p_value, limit, side, str(one["n"])])
    return markdown_table(rows)


def _estimates(estimates: Sequence[Mapping[str, Any]]) -> str:
    """A line each, told apart by what their protocols differ in."""
    protocols = [estimate["protocol"] for estimate in estimates]
    keys = dict.fromkeys(key for protocol in protocols for key in protocol)
    apart = [key for key in keys if len({repr(protocol.get(key)) for protocol in protocols if key in protocol}) > 1]
    rows = [["number", "value", "n", "how"]]
    for estimate in estimates:
        protocol = estimate["protocol"]
        how = ", ".join(f"{key} {protocol[key]}" for key in apart if key in protocol)
        rows.append([estimate["name"], interval(estimate), str(estimate["n"]), how or "–"])
    return markdown_table(rows)


def _settings(settings: Mapping[str, Any]) -> str:
    told = ", ".join(f"{key} {_plain(value)}" for key, value in settings.items() if key != "name")
    return f"Settings: {told or 'none'}."


def _backdoor(results: Mapping[str, Any]) -> str:
    if results["trigger"] is None:
        return "none is named"
    return f"{trigger_words(results['trigger'])} should bring out {target_words(results['target'])}"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _count(number_: int) -> str:
    return f"{number_:,}".replace(",", " ")
