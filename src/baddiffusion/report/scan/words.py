"""A scan in words: they state evidence, never guilt, and what was found is not more than what was looked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from baddiffusion.report.kit.wording import Count, number
from baddiffusion.report.scan.reading import Check
from baddiffusion.scanner.shifts import FIELDS, OWN

__all__ = [
    "SHORTFALLS",
    "chance_words",
    "headline",
    "lead",
    "p_value_words",
    "patch_words",
    "shift_words",
]

HEADLINES = {
    "backdoored": "Evidence of a backdoor was found in this model.",
    "suspicious": "This model behaves in a way that calls for a closer look.",
    "no evidence": "No evidence of a backdoor was found.",
    "inconclusive": "The scan gives no answer about this model.",
    "not examined": "The behavior of this model was not examined.",
}
LEADS = {
    "suspicious": "What was found is unusual, but does not suffice for more: honest models can be unusual, too.",
    "no evidence": "That is no certificate. It says that this search found nothing; what was searched, and what was "
    "not, stands on this page.",
    "inconclusive": "That speaks neither for the model nor against it.",
    "not examined": "That speaks neither for the model nor against it. What its files show stands below.",
}
SHORTFALLS = {
    "absent": "On fresh noises the picture did not come again: the search had met it by chance.",
    "explained": "The picture looks like what was added, or is one even color: any model follows what it is given.",
    "follows": "The picture is one of those of the model’s own that resemble what was added most: a model that knows "
    "its pictures by heart answers like that. It proves nothing.",
    "uncaused": "It comes in the controls, too: it does not take what was added. It proves nothing.",
    "rare": "It comes too rarely to prove anything.",
    "generic": "A control of the same strength makes the noises become one picture, too, though another one: anything "
    "so strong does that to this model. It proves nothing.",
    "shared": "Clean siblings turn the same starts into one picture, too: models of this kind do that. It proves "
    "nothing.",
}
"""Why a check proves nothing."""
ALARM = "Its files call for a look, too: see the table of the files."
ALARM_ALONE = "But its files call for a look: see the table of the files."


def headline(record: Mapping[str, Any]) -> str:
    """What the scan amounts to, in one sentence."""
    return HEADLINES[record["verdict"]["outcome"]]


def lead(record: Mapping[str, Any], strongest: Check | None, has_alarms: bool) -> str:
    """The sentences under the headline."""
    outcome = record["verdict"]["outcome"]
    said = LEADS.get(outcome, "")
    if outcome == "backdoored" and strongest is not None:
        shifted, plain = (Count(arm.count, len(arm.hits)) for arm in strongest.arms[:2])
        said = (
            f"Of {shifted.n} random noises, {_of(shifted)} became one and the same picture once something was added to "
            f"them. Without it, {_of(plain)} did."
        )
    if has_alarms:
        said += f" {ALARM if outcome in ('backdoored', 'suspicious') else ALARM_ALONE}"
    return said.strip()


def _of(count: Count) -> str:
    return "none" if count.hits == 0 else "all" if count.hits == count.n else str(count.hits)


def p_value_words(p_value: float, checked: int) -> str:
    r"""What the p-value says, in one sentence.

    Example:
        >>> p_value_words(0.01, 1)
        'If adding it made no difference, so large a gap would come by chance once in 100 tries (p = 0.0100).'
        >>> p_value_words(1.0, 3)
        'The gap between the noises with and without it is no larger than chance makes it (p = 1.00).'
    """
    corrected = f", corrected for {checked} checks" if checked > 1 else ""
    if p_value > 0.05:
        end = f" (p = {number(p_value)}{corrected if p_value < 1 else ''})."
        return f"The gap between the noises with and without it is no larger than chance makes it{end}"
    often = chance_words(p_value)
    said = f"If adding it made no difference, so large a gap would come by chance once in {often} tries"
    return f"{said} (p = {number(p_value)}{corrected})."


def chance_words(p_value: float) -> str:
    r"""How many tries a chance takes on average, rounded to one digit, in words that can be read aloud.

    Example:
        >>> chance_words(0.03), chance_words(3.3e-9), chance_words(2e-14)
        ('30', '300 million', '50 trillion')
    """
    tries = 1 / p_value
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if tries >= size:
            return f"{_one_digit(tries / size)} {word}"
    return _one_digit(tries)


def _one_digit(value: float) -> str:
    digits = len(str(int(value))) - 1
    return number(round(value, -digits) if digits else round(value)).split(".")[0]


def shift_words(check: Check) -> str:
    """What was added to the noises, for the middle of a sentence."""
    patch = check.entry["patch"]
    if patch is not None:
        return f"a canvas of black with {patch_words(patch)}"
    group = str(check.entry["group"])
    return f"{group}, a different one for each noise" if group in (OWN, FIELDS) else group


def patch_words(patch: Mapping[str, Any]) -> str:
    """A patch, for the middle of a sentence.

    Example:
        >>> patch_words({"row": 2, "column": 16, "side_px": 14, "value": 0.0})
        'a grey square of 14×14 pixels at row 2, column 16'
    """
    shade = "grey" if abs(patch["value"]) < 0.9 else "white" if patch["value"] > 0 else "black"
    side = patch["side_px"]
    return f"a {shade} square of {side}×{side} pixels at row {patch['row']}, column {patch['column']}"
