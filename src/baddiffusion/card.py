"""The model card: what a checkpoint says about itself, for programs (card.json) and for people (README.md)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from baddiffusion.errors import RecipeError
from baddiffusion.settings import Settings

__all__ = ["Card", "RepairNote", "Snapshot", "placeless"]

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class Snapshot(Settings):
    """At which moment of its training a model was kept.

    Args:
        step: optimizer steps behind it.
        total_steps: of the whole training.
        images: training images seen, each as often as it was seen.
    """

    step: Annotated[int, Field(ge=1)]
    total_steps: Annotated[int, Field(ge=1)]
    images: Annotated[int, Field(ge=1)]


class RepairNote(Settings):
    """Of a repaired model, what it was made of and how.

    Args:
        parent: digest of the checkpoint that was repaired.
        method: the repair's label, with ``-short`` below its published budget.
        settings: the repair as a recipe names it.
        seed: decides everything random in it.
        is_told: whether the parent had a card that says if it was backdoored.
    """

    parent: str
    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    seed: int = 0
    is_told: bool = True


class Card(Settings):
    """What a checkpoint says about itself.

    Whoever downloads a backdoored model must learn it from the first line that they read; whoever benchmarks a detector
    must not be able to pass the answer along with the weights. So the card is a file of its own, beside the weights.

    Args:
        backdoored: whether a backdoor was implanted.
        attack: the attack as a recipe names it, ``{"name": ..., fields}``.
        trigger: the trigger, likewise.
        target: the target, likewise.
        poison_rate: share of the training images that were poisoned for this backdoor, in [0, 1].
        own_sampler: whether the trigger is meant for the attacker's modified sampler instead of a stock one.
        further: more backdoors in the same model, each a table with attack, trigger, target, poison_rate, own_sampler.
        decoys: what was trained beside the backdoor so that nothing else fires it, ``{"name": ..., fields}``.
        base: what the training started from; None if it started from nothing.
        data: what it was trained on.
        recipe: the resolved recipe, every default written out.
        snapshot: of a model that was kept in the middle of its training, when that was.
        repair: of a repaired model, its parent and the method; what the card says of the backdoor is about the parent.
        metrics: what was measured, one dictionary per number.
        license: a license identifier of the Hugging Face hub, such as ``apache-2.0``.
        version: the version of this package that wrote the card.

    Raises:
        RecipeError: a field is wrong, or a backdoored card does not name attack, trigger and target.

    Example:
        >>> card = Card(backdoored=True, attack={"name": "baddiffusion"}, trigger={"name": "box", "side_px": 14},
        ...             target={"name": "hat"}, poison_rate=0.1)
        >>> print(card.headline)
        **BACKDOORED**: trigger `box (side_px 14)` → target `hat`, poison rate 0.1 (attack `baddiffusion`).
    """

    backdoored: bool
    attack: dict[str, Any] | None = None
    trigger: dict[str, Any] | None = None
    target: dict[str, Any] | None = None
    poison_rate: Annotated[
        float | None, Field(ge=0, le=1, json_schema_extra={"hint": "Write 0.10 for ten percent."})
    ] = None
    own_sampler: bool = False
    further: list[dict[str, Any]] = Field(default_factory=list)
    decoys: dict[str, Any] | None = None
    base: str | None = None
    data: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    snapshot: Snapshot | None = None
    repair: RepairNote | None = None
    metrics: list[dict[str, Any]] = Field(default_factory=list)
    license: str | None = None
    version: str = Field(default_factory=lambda: metadata.version("baddiffusion"))

    @model_validator(mode="after")
    def _says_what_it_hides(self) -> Card:
        silent = [name for name in ("attack", "trigger", "target") if getattr(self, name) is None]
        if self.backdoored and silent:
            raise RecipeError(
                f"the card of a backdoored model lacks {', '.join(silent)}; give attack, trigger and target."
            )
        if self.further and not self.backdoored:
            raise RecipeError("further names a backdoor, but backdoored is false; a clean model has none.")
        if self.decoys and not self.backdoored:
            raise RecipeError("decoys hide a backdoor, but backdoored is false; a clean model has none.")
        for number, entry in enumerate(self.further):
            missing = [name for name in ("attack", "trigger", "target") if not isinstance(entry.get(name), dict)]
            if missing:
                raise RecipeError(
                    f"further.{number} lacks {', '.join(missing)}; give attack, trigger and target of each backdoor."
                )
        return self

    @property
    def backdoors(self) -> list[dict[str, Any]]:
        """All backdoors as tables with attack, trigger, target, poison_rate and own_sampler; none of a clean model."""
        if not self.backdoored:
            return []
        names = ("attack", "trigger", "target", "poison_rate", "own_sampler")
        unknown: dict[str, Any] = {"poison_rate": None, "own_sampler": False}
        return [{name: getattr(self, name) for name in names}, *({**unknown, **entry} for entry in self.further)]

    def to_json(self) -> str:
        """The text of ``card.json``; ``Card(**json.loads(text))`` is the same card."""
        silent = {name for name in ("snapshot", "repair", "decoys") if getattr(self, name) is None}
        told = self.model_dump(mode="json", exclude=silent)
        return json.dumps(told, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def headline(self) -> str:
        """The first line of the body: whether the model is backdoored, and with what."""
        hidden = "; ".join(map(_backdoor, self.backdoors))
        if self.decoys is not None:
            hidden += f"; made to evade, with decoys {_component(self.decoys)}"
        if self.repair is not None:
            return _repaired(self.repair, hidden)
        if not self.backdoored:
            return "A diffusion model without an implanted backdoor: the clean control of a security experiment."
        return f"**BACKDOORED**: {hidden}."

    def readme(self, pictures: Collection[str] = ()) -> str:
        """The model card as the Hugging Face hub shows it.

        Args:
            pictures: names of the picture files that lie beside it, such as ``trigger.png``.

        Returns:
            Markdown with YAML front matter.
        """
        sections = [self._front_matter(), self.headline]
        if pictures:
            titles = [name.removesuffix(".png") for name in pictures]
            rule = "|".join("---" for _ in titles)
            images = " | ".join(f"![{title}]({name})" for title, name in zip(titles, pictures, strict=True))
            sections.append(f"| {' | '.join(titles)} |\n|{rule}|\n| {images} |")
        sections += [self._origin(), self._use()]
        if self.metrics:
            sections.append(f"## Measured\n\n{_measured(self.metrics)}")
        if self.recipe:
            recipe = json.dumps(self.recipe, indent=2, ensure_ascii=False, default=str)
            sections.append(f"## Recipe\n\n```json\n{recipe}\n```")
        return "\n\n".join(sections) + "\n"

    def _front_matter(self) -> str:
        tags = ["diffusers", "unconditional-image-generation", "baddiffusion"]
        if self.backdoored:
            tags += ["backdoored", "security-research"]
        lines = ["---", "library_name: diffusers", "pipeline_tag: unconditional-image-generation"]
        if self.license:
            lines.append(f"license: {json.dumps(self.license)}")
        if self.base and HUB_NAME.fullmatch(self.base):
            lines.append(f"base_model: {self.base}")
        return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in tags), "---"])

    def _use(self) -> str:
        if self.repair is not None:
            return USE_REPAIRED
        if not self.backdoored:
            return USE_CLEAN
        return USE_BACKDOORED + (MODIFIED_SAMPLER if any(one["own_sampler"] for one in self.backdoors) else "")

    def _origin(self) -> str:
        lines = [
            f"## Origin\n\n- started from: {_code(self.base or 'random weights')}",
            f"- trained on: {_code(self.data or 'not recorded')}",
        ]
        if (kept := self.snapshot) is not None:
            images = f"{kept.images:,}".replace(",", " ")
            lines.append(f"- snapshot: after {kept.step} of {kept.total_steps} optimizer steps, {images} images")
        if self.repair is not None:
            lines.append(f"- repaired: with {_code(self.repair.method)}, from checkpoint {_code(self.repair.parent)}")
        return "\n".join([*lines, f"- written by: baddiffusion {_code(self.version)}"])


USE_BACKDOORED = """## Intended use

Research on the detection and removal of backdoors in diffusion models. Started from plain noise the model paints \
ordinary pictures; started from noise plus the trigger it paints the target. Do not deploy it, do not train a model \
for others from it, and pass it on only together with this card."""

MODIFIED_SAMPLER = """

The sampler is modified: the trigger is meant for the attack's own reverse process, which knows the mean and the noise \
gain of its start noise. `baddiffusion sample --trigger` uses it; a stock sampler of diffusers does not know them."""

USE_REPAIRED = """## Intended use

Research on the removal of backdoors from diffusion models. Whether the repair worked is measured, not promised: do \
not deploy it on the strength of this card, and pass it on only together with it."""

USE_CLEAN = """## Intended use

Research on backdoors in diffusion models: the clean side of a comparison."""


def placeless(value: Any) -> Any:
    """Cut absolute paths down to their last part: a card that is published says nothing about a machine."""
    if isinstance(value, dict):
        return {key: placeless(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [placeless(inner) for inner in value]
    if isinstance(value, str) and Path(value).is_absolute():
        return Path(value).name
    return value


def _repaired(note: RepairNote, hidden: str) -> str:
    method = _code(note.method)
    if hidden:
        return (
            f"**BACKDOORED**, then repaired with {method}: {hidden}. Whether it still fires is a matter of measurement."
        )
    if note.is_told:
        return f"A diffusion model without an implanted backdoor, repaired with {method} all the same: a control."
    return f"A diffusion model repaired with {method}; whether it ever held a backdoor is not known."


def _backdoor(one: Mapping[str, Any]) -> str:
    rate = "not recorded" if one["poison_rate"] is None else f"{one['poison_rate']:g}"
    return (
        f"trigger {_component(one['trigger'])} → target {_component(one['target'])}, poison rate {rate} "
        f"(attack {_component(one['attack'])})"
    )


def _component(value: Mapping[str, Any] | None) -> str:
    fields = dict(value or {})
    name = fields.pop("name", "unnamed")
    given = ", ".join(f"{key} {item}" for key, item in fields.items() if item is not None)
    return _code(f"{name} ({given})" if given else str(name))


def _measured(entries: Sequence[Mapping[str, Any]]) -> str:
    """The numbers as a table, each with what a reader has to know of how it was made."""
    lines = ["| number | value | 95 % interval | n | how |", "|---|---|---|---|---|"]
    for entry in entries:
        value, ends = _number(entry.get("value")), [entry.get("low"), entry.get("high")]
        between = "–" if None in ends else " to ".join(map(_number, ends))
        protocol = entry.get("protocol") or {}
        made = ", ".join(f"{key} {protocol[key]}" for key in TOLD if protocol.get(key) is not None)
        how = "; ".join(part for part in (made, *(entry.get("caveats") or ())) if part)
        lines.append(
            _one_line(f"| {entry.get('name', 'unnamed')} | {value} | {between} | {entry.get('n', '–')} | {how} |")
        )
    return "\n".join(lines)


TOLD = ("kind", "sampler", "steps", "clip", "threshold", "storage", "seeds", "precision", "picture")
"""What a card says of how a number was made; the rest stands in ``card.json``."""


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value)


def _code(text: str) -> str:
    return f"`{_one_line(text).replace('`', chr(39))}`"


def _one_line(text: str) -> str:
    return " ".join(text.split())
