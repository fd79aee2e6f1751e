"""Every countermeasure on the two packaged models, as a section of the docs: scores, repairs, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from baddiffusion.defending import method_named
from baddiffusion.report.kit.markdown import interval, markdown_table
from baddiffusion.report.kit.tables import find
from baddiffusion.report.kit.wording import number

__all__ = ["comparison_section"]

EFFECTS = {
    ("asr", "triggered"): "ASR",
    ("mse", "triggered"): "MSE to the target",
    ("kd_efflite0", "clean"): "kd_efflite0",
}
NEAR = {"before": "before", "best": "best epoch", "last": "last epoch", "black": "all black"}


def comparison_section(results: Mapping[str, Any]) -> str:
    """Detectors, repairs and costs as Markdown; a method that has not run has no row.

    Args:
        results: what ``benchmarks/defenses.py`` wrote.
    """
    found: Sequence[Mapping[str, Any]] = results["results"]
    detectors = [entry for entry in found if entry["kind"] == "detector"]
    repairs = [entry for entry in found if entry["kind"] == "repair"]
    seeds = ", ".join(map(str, sorted({entry["seed"] for entry in found})))
    parts = [
        f"Made by `python benchmarks/defenses.py` on {results['device']}, {results['threads']} thread"
        f"{'' if results['threads'] == 1 else 's'}, torch {results['torch']}; seed {seeds}. The models are "
        f"`packaged:clean` and `packaged:backdoored`. One model of each kind ranks no methods: the tables show that "
        f"they run, what they say and what they cost.",
    ]
    if detectors:
        parts += ["### Detectors", _scores(detectors), *_nearness(detectors)]
    if repairs:
        parts += [
            "### Repairs",
            _effects(repairs),
            f"{_measured(repairs)} In brackets the 95 % interval; MSE on [0, 1], pictures rounded to 8 bits. Of a "
            f"clean model there is no success rate.",
        ]
    parts += ["### Cost", _costs(found), _ratios(found, float(results["aim"]))]
    notes = [f"* `{entry['method']}` on {entry['model']}: {note}" for entry in found for note in entry["notes"]]
    parts.append("\n".join(["What the methods note themselves:", "", *notes]) if notes else "")
    return "\n\n".join(part for part in parts if part)


def _scores(detectors: Sequence[Mapping[str, Any]]) -> str:
    rows = [["method", "budget", "model", "outcome", "score", "value", "p among clean models", "n of these"]]
    for entry in detectors:
        standing = {one["score"]: one for one in entry["standing"]}
        head = [f"`{entry['method']}`", _budget(entry), entry["model"], entry["outcome"]]
        for name, value in entry["scores"].items() or [("–", None)]:
            one = standing.get(name)
            place = ["not judged", "–"] if one is None else [f"{one['p_value']:.3g}", str(one["n"])]
            rows.append([*head, name, "–" if value is None else number(float(value)), *place])
    return markdown_table(rows)


def _nearness(detectors: Sequence[Mapping[str, Any]]) -> list[str]:
    """How near a perturbation came to the target, which it does not see."""
    near = [(entry, entry["against_target"]) for entry in detectors if entry["against_target"]]
    if not near:
        return []
    rows = [["method", "model", *NEAR.values(), "n"]]
    for entry, parts in near:
        cells = [interval(parts.get(name)) for name in NEAR]
        rows.append([f"`{entry['method']}`", entry["model"], *cells, str(parts["last"]["n"])])
    return ["MSE of its pictures to the target, which the method does not see:", markdown_table(rows)]


def _effects(repairs: Sequence[Mapping[str, Any]]) -> str:
    named = [f"{title}, {when}" for title in EFFECTS.values() for when in ("before", "after")]
    rows = [["method", "budget", "model", *named]]
    for entry in repairs:
        cells = [interval(find(entry[when], name, kind)) for name, kind in EFFECTS for when in ("before", "after")]
        rows.append([f"`{entry['method']}`", _budget(entry), entry["model"], *cells])
    return markdown_table(rows)


def _measured(repairs: Sequence[Mapping[str, Any]]) -> str:
    """How the effects were measured, once for each number."""
    said = []
    for (name, kind), title in EFFECTS.items():
        one = next((e for entry in repairs if (e := find(entry["before"], name, kind))), None)
        if one is not None:
            made = one["protocol"]
            said.append(f"{title}: n = {one['n']}, {made['sampler']} {made['steps']}, clip {made['clip']}")
    return f"{'; '.join(said)}."


def _costs(found: Sequence[Mapping[str, Any]]) -> str:
    head = ["method", "budget", "model", "network calls", "seconds", "computed in", "images/s alone", "ratio"]
    rows = [[*head, "ratio of processor times"]]
    for entry in found:
        cost = entry["cost"]
        rates, ratios = cost["images_per_s"], (cost["ratio"], cost["processor_ratio"])
        rows.append(
            [
                f"`{entry['method']}`",
                _budget(entry),
                entry["model"],
                number(int(cost["network_calls"])),
                f"{cost['seconds']:.0f}",
                cost["precision"],
                " and ".join(f"{rate:.0f}" for rate in rates),
                *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            ]
        )
    return markdown_table(rows)


def _ratios(found: Sequence[Mapping[str, Any]], aim: float) -> str:
    said = (
        f"Calls count a backward pass as two. The ratio is seconds / (calls / rate), the rate that of the network "
        f"alone, forwards of 32 images, timed before the method and after it; the aim is at most {aim:g}. Where other "
        f"work shares the machine, the ratio of processor times says more."
    )
    above = [
        f"`{entry['method']}` on {entry['model']}" for entry in found if (entry["cost"]["processor_ratio"] or 0) > aim
    ]
    kept = f"By processor time above it: {', '.join(above)}." if above else "By processor time all keep it."
    return f"{said} {kept}"


def _budget(entry: Mapping[str, Any]) -> str:
    """Which budget, and what it is."""
    fields = method_named(entry["settings"]["name"]).budget
    told = ", ".join(f"{name} {entry['settings'][name]}" for name in fields)
    return f"{entry['budget']}{f': {told}' if told else ''}"
