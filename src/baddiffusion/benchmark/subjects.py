"""The models of a benchmark, out of one zoo or several: which are judged, and what a page may say about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from baddiffusion.errors import RecipeError, RunError
from baddiffusion.zoo import MANIFEST, Specimen, Split, open_zoo

__all__ = ["DIGITS", "Subjects", "attack_words", "told", "trigger_words"]

DIGITS = 12
"""Of a digest, in commands and file names."""


@dataclass(frozen=True, eq=False)
class Subjects:
    """Specimens without failed implants, ordered by digest.

    Args:
        judged: clean models and backdoored ones whose backdoor works.
        failed: models whose training was poisoned in vain; they are neither.

    Raises:
        RunError: a model stands in both splits, or a backdoored model and its twin in different ones.
    """

    judged: tuple[Specimen, ...]
    failed: tuple[Specimen, ...]

    def __post_init__(self) -> None:
        splits: dict[str, Specimen] = {}
        pairs: dict[str, Specimen] = {}
        for one in (*self.judged, *self.failed):
            for known, key in ((splits, one.digest), (pairs, one.truth.pair)):
                other = known.setdefault(key, one) if key else one
                if other.truth.split != one.truth.split:
                    raise RunError(
                        f"{one.truth.name} is in split {one.truth.split}, and {other.truth.name}, "
                        f"{'the same model' if known is splits else 'of its pair'}, in {other.truth.split}; thresholds "
                        f"would be set on what they are judged by. Build the zoo again."
                    )

    @classmethod
    def open(cls, zoos: Sequence[Path]) -> Subjects:
        """Open zoos; a model that stands in several counts once.

        Raises:
            RunError: a folder has no manifest, a damaged one, or one of another version; or no model.
        """
        found: dict[str, Specimen] = {}
        for zoo in zoos:
            for specimen in open_zoo(zoo):
                known = found.setdefault(specimen.digest, specimen)
                if known.truth.split != specimen.truth.split:
                    cls((known, specimen), ())
        if not found:
            raise RunError(f"there is no model in {', '.join(map(str, zoos))}; build some: baddiffusion zoo build")
        ordered = sorted(found.values(), key=lambda one: one.digest)
        failed = tuple(one for one in ordered if one.truth.counted_as == "failed implant")
        return cls(tuple(one for one in ordered if one not in failed), failed)

    def select(self, split: Split | None = None, models: Sequence[str] = ()) -> list[Specimen]:
        """The judged ones of a split, or those named.

        Args:
            split: None for both.
            models: names or the beginnings of digests, at least six digits; empty for all.

        Raises:
            RecipeError: a name or digest that no judged model has.
        """
        for name in models:
            if not any(_is(one, name) for one in self.judged):
                failed = any(_is(one, name) for one in self.failed)
                why = "is a failed implant, and not judged" if failed else "is in no zoo"
                raise RecipeError(
                    f"--model {name} {why}. Give a name, or at least six digits of a digest, as {MANIFEST} has them."
                )
        return [
            one
            for one in self.judged
            if split in (None, one.truth.split) and (not models or any(_is(one, name) for name in models))
        ]

    def twin(self, specimen: Specimen) -> Specimen | None:
        """The clean side of a backdoored model's pair: same recipe, same initial weights, no poison."""
        pair = specimen.truth.pair
        if not pair or specimen.truth.counted_as == "clean":
            return None
        return next((one for one in self.judged if one.truth.pair == pair and one.truth.counted_as == "clean"), None)

    @cached_property
    def by_digest(self) -> dict[str, Specimen]:
        """All judged ones."""
        return {one.digest: one for one in self.judged}


def told(specimen: Specimen) -> dict[str, Any]:
    """What results say about a model: no place, no picture."""
    table, truth = specimen.truth.told, specimen.truth
    backdoor = table["backdoor"]
    return {
        "name": truth.name,
        "split": truth.split,
        "kind": truth.kind,
        "counted_as": truth.counted_as,
        "pair": truth.pair or None,
        "attack": attack_words(backdoor) if backdoor else None,
        "trigger": trigger_words(backdoor["trigger"]) if backdoor else None,
        "rate": backdoor["rate"] if backdoor else None,
        "data": table["data"]["name"],
        "shape": list(truth.shape),
        "adaptive": table.get("adaptive"),
        "asr": table["asr"],
        **({"price": table["price"]} if "price" in table else {}),
    }


def attack_words(attack: dict[str, Any]) -> str:
    """A family of attacks in few words, whatever trigger and target.

    Example:
        >>> attack_words({"name": "sampler-matched", "sampler": "ode", "shift": "noise", "trigger_only": True})
        'sampler-matched, ode, shift ∝ noise'
        >>> attack_words({"name": "baddiffusion"})
        'baddiffusion'
    """
    shape = "shift ∝ noise" if attack.get("shift") == "noise" else ""
    return ", ".join(filter(None, (attack["name"], attack.get("sampler"), attack.get("kind"), shape)))


def trigger_words(trigger: dict[str, Any]) -> str:
    """A kind of trigger, whatever its size and place.

    Example:
        >>> trigger_words({"name": "box", "value": 1.0}), trigger_words({"name": "checker", "cell_px": 1})
        ('white box', 'checker, cells of 1 px')
    """
    if trigger["name"] == "box":
        return {0.0: "grey box", 1.0: "white box", -1.0: "black box"}.get(trigger["value"], "box")
    return f"checker, cells of {trigger['cell_px']} px" if trigger["name"] == "checker" else trigger["name"]


def _is(specimen: Specimen, name: str) -> bool:
    return name == specimen.truth.name or (len(name) >= 6 and specimen.digest.startswith(name))
