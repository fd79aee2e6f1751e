"""A recipe: everything that decides an experiment, in one TOML file. Reading one cannot run code."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, model_validator

from baddiffusion.attacks import ATTACKS, Attack
from baddiffusion.backdoors import Backdoor, listed_backdoors, total_rate
from baddiffusion.data import SOURCES, DataSource
from baddiffusion.errors import RecipeError, nearest
from baddiffusion.evading import DECOYS, DecoyDesign
from baddiffusion.metrics import KD_LEAST
from baddiffusion.origin import ModelSettings
from baddiffusion.registry import Component
from baddiffusion.sampling import SAMPLERS, ClipKind, SamplerDesign
from baddiffusion.settings import Settings
from baddiffusion.targets import TARGETS, TargetDesign
from baddiffusion.training import TrainingSettings
from baddiffusion.triggers import TRIGGERS, TriggerDesign

__all__ = [
    "Backdoor",
    "EvaluationSettings",
    "ModelSettings",
    "PoisonSettings",
    "Recipe",
    "SamplePlan",
    "applied",
    "packaged_recipes",
    "read_table",
]

AS_TABLE = PlainSerializer(lambda component: component.to_dict())
AS_TABLE_OR_NONE = PlainSerializer(lambda component: None if component is None else component.to_dict())
Rate = Annotated[float, Field(ge=0, le=1, json_schema_extra={"hint": "Write 0.10 for ten percent."})]


class PoisonSettings(Settings):
    """How much of the data is poisoned; 0 is the control at equal compute."""

    rate: Rate = 0.1


class SamplePlan(Settings):
    """What is sampled for the measurements.

    Args:
        n: images of each kind (clean noise, triggered noise); image i has seed i.
        sampler: a sampler of diffusers, by name.
        num_inference_steps: 0 takes the sampler's own default.
        clips: which ways of clipping are sampled, see `Clipping`; ``off`` is the attack's number. TrojDiff's own
            sampler knows ``off`` and ``x0`` only.
        chunk_size: images per network call; part of an image's identity.
        precision: of the network: ``auto`` takes bf16 where the processor multiplies it faster.
    """

    n: Annotated[int, Field(ge=1)] = 64
    sampler: Annotated[SamplerDesign, BeforeValidator(SAMPLERS.parse), AS_TABLE] = SAMPLERS.parse("ddpm")
    num_inference_steps: Annotated[int, Field(ge=0)] = 0
    clips: tuple[ClipKind, ...] = ("off", "x0")
    chunk_size: Annotated[int, Field(ge=1)] = 32
    precision: Literal["auto", "float32", "bf16"] = "auto"

    @model_validator(mode="after")
    def _clips_are_a_set(self) -> SamplePlan:
        if not self.clips or len(set(self.clips)) < len(self.clips):
            raise RecipeError(
                f"clips is {list(self.clips)}; name at least one of 'off', 'x0', 'x0-keep-eps', 'xt', none of them "
                f"twice."
            )
        return self


class EvaluationSettings(Settings):
    """How the samples are judged.

    Args:
        asr_threshold: an image counts as the target if its mean squared error on [0, 1] is below.
        quality_n: clean images for the quality number (0: none; at least 256), sampled with ``quality_sampler``.
    """

    asr_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.01
    quality_n: Annotated[int, Field(ge=0)] = 0
    quality_sampler: Annotated[SamplerDesign, BeforeValidator(SAMPLERS.parse), AS_TABLE] = SAMPLERS.parse("ddim")
    quality_steps: Annotated[int, Field(ge=1)] = 50

    @model_validator(mode="after")
    def _quality_needs_images(self) -> EvaluationSettings:
        if 0 < self.quality_n < KD_LEAST:
            raise RecipeError(
                f"quality_n is {self.quality_n}; it must be 0 (no quality number) or at least {KD_LEAST}."
            )
        return self


def _read_decoys(value: object) -> DecoyDesign | None:
    return None if value is None else DECOYS.parse(value)


def _read_attack(value: object) -> Attack | tuple[Backdoor, ...]:
    return value if isinstance(value, tuple) else ATTACKS.parse(value)


def _as_tables(attack: Attack | tuple[Backdoor, ...]) -> dict[str, Any] | list[dict[str, Any]]:
    return [backdoor.to_dict() for backdoor in attack] if isinstance(attack, tuple) else attack.to_dict()


class Recipe(Settings):
    """One experiment, with every default written out.

    One backdoor is ``[attack]``, ``[trigger]``, ``[target]`` and ``[poison]``. Several are ``[[attack]]``, once each,
    with trigger, target and rate inside; ``trigger`` and ``target`` of the recipe are then those of the first, and
    ``poison.rate`` is that of all together.

    ``[decoys]`` is for an attacker who evades: what he trains beside his backdoor, see `DecoyDesign`. Without a
    backdoor they are left out, so that the control at rate 0 is an ordinary clean model.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    seed: int = 0
    data: Annotated[DataSource, BeforeValidator(SOURCES.parse), AS_TABLE]
    model: ModelSettings = ModelSettings()
    attack: Annotated[Attack | tuple[Backdoor, ...], BeforeValidator(_read_attack), PlainSerializer(_as_tables)] = (
        ATTACKS.parse("baddiffusion")
    )
    trigger: Annotated[TriggerDesign, BeforeValidator(TRIGGERS.parse), AS_TABLE] = TRIGGERS.parse("box")
    target: Annotated[TargetDesign, BeforeValidator(TARGETS.parse), AS_TABLE] = TARGETS.parse("hat")
    poison: PoisonSettings = PoisonSettings()
    decoys: Annotated[DecoyDesign | None, BeforeValidator(_read_decoys), AS_TABLE_OR_NONE] = None
    training: TrainingSettings = TrainingSettings()
    sampling: SamplePlan = SamplePlan()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="before")
    @classmethod
    def _several_stand_for_themselves(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("attack"), list | tuple):
            return values
        beside = [key for key in ("trigger", "target", "poison") if key in values]
        if beside:
            raise RecipeError(
                f"{beside[0]} stands beside [[attack]]; where attacks are listed, each has its own trigger, target and "
                f"rate. Move it into one of them."
            )
        backdoors = listed_backdoors(values["attack"])
        first, rate = backdoors[0], float(total_rate(backdoor.rate for backdoor in backdoors))
        attack = first.attack if len(backdoors) == 1 else backdoors
        parts = {"attack": attack, "trigger": first.trigger, "target": first.target, "poison": {"rate": rate}}
        return {**values, **parts}

    @model_validator(mode="after")
    def _images_suffice(self) -> Recipe:
        rates = [backdoor.rate for backdoor in self.backdoors]
        if rates and self.decoys is not None and total_rate([*rates, self.decoys.rate]) > 1:
            raise RecipeError(
                f"decoys.rate is {self.decoys.rate} beside a poison rate of {total_rate(rates)}; an image is poisoned, "
                f"a decoy or neither, so they must add up to at most 1. Lower one of them."
            )
        return self

    @classmethod
    def load(cls, source: str | Path, overrides: Iterable[str] = ()) -> Recipe:
        """Read a recipe file, or a packaged one by name, and apply ``key.path=value`` overrides.

        Raises:
            RecipeError: no such file, not TOML, an unknown key or a wrong value; the message ends with the file's name.
        """
        table, path = read_table(source)
        if {"grid", "cases"} & set(table):
            raise RecipeError(f"this is a sweep of several experiments; use: baddiffusion sweep {path} ({path.name})")
        try:
            return cls(**applied(table, overrides))
        except RecipeError as error:
            raise type(error)(f"{error} ({path.name})") from None

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain values; keys that are None are left out."""
        several = {"trigger", "target", "poison"} if isinstance(self.attack, tuple) else set()
        return _without_none(self.model_dump(mode="json", exclude=several))

    def to_toml(self) -> str:
        """The resolved recipe as TOML, which `load` reads back to an equal recipe."""
        return tomli_w.dumps(self.to_dict())

    @property
    def backdoors(self) -> tuple[Backdoor, ...]:
        """What is implanted, in the order of the recipe; nothing by a clean attack or at rate 0."""
        if isinstance(self.attack, tuple):
            return self.attack
        if self.attack.component_name == "clean" or self.poison.rate == 0:
            return ()
        return (Backdoor(attack=self.attack, trigger=self.trigger, target=self.target, rate=self.poison.rate),)

    @property
    def designs(self) -> tuple[tuple[Attack, TriggerDesign, TargetDesign], ...]:
        """Attack, trigger and target of each backdoor; of a control those that it is compared under."""
        if isinstance(self.attack, tuple):
            return tuple((backdoor.attack, backdoor.trigger, backdoor.target) for backdoor in self.attack)
        return ((self.attack, self.trigger, self.target),)

    @property
    def digest(self) -> str:
        """Hash of the resolved recipe, 8 hex digits: part of the run directory's name."""
        return hashlib.blake2b(json.dumps(self.to_dict(), sort_keys=True).encode(), digest_size=4).hexdigest()


def packaged_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    folder = Path(str(resources.files("baddiffusion") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _locate(source: str | Path) -> Path:
    path, packaged = Path(source), packaged_recipes()
    if path.exists() and not path.is_dir():
        return path
    if str(source) in packaged:
        return packaged[str(source)]
    if path.is_dir():
        raise RecipeError(f"{path} is a folder; give a recipe file (.toml) or the name of a packaged recipe.")
    raise RecipeError(
        f"recipe {str(source)!r} is neither a file nor a packaged recipe. {nearest(str(source), packaged)}"
        f"Packaged: {', '.join(packaged)}."
    )


def read_table(source: str | Path) -> tuple[dict[str, Any], Path]:
    """Read a recipe file, or a packaged one by name: its content, and where it lies.

    Raises:
        RecipeError: no such file, or not TOML.
    """
    path = _locate(source)
    try:
        return tomllib.loads(path.read_text()), path
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path.name} is not valid TOML: {error}.") from None
    except OSError as error:
        raise RecipeError(f"{path} cannot be read ({error.strerror}).") from None


def applied(table: Mapping[str, Any], changes: Iterable[str | tuple[str, Any]]) -> dict[str, Any]:
    """Copy a recipe's table with some keys changed: ``key.path=value`` as the command line takes it, or a pair.

    Raises:
        RecipeError: a change is not ``key=value``, or its key leads through a value or a list.
    """
    copy = deepcopy(dict(table))
    for change in changes:
        key, value, said = (*change, change[0]) if isinstance(change, tuple) else (*_read(change), f"--set {change!r}")
        _apply(copy, key, value, said)
    return copy


def _read(override: str) -> tuple[str, Any]:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {override!r} is not key=value; write for example --set poison.rate=0.05.")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text.strip()


def _apply(table: Any, key: str, value: Any, said: str) -> None:
    *parents, last = key.split(".")
    model: type[BaseModel] | None = Recipe
    for parent in parents:
        if isinstance(table, list):
            table, model = _entry(table, parent, said), None
            continue
        field = model.model_fields.get(parent) if model else None
        default = field.default if field else None
        model = type(default) if isinstance(default, Settings) else None
        # A component that the file leaves to its default can be changed without being named again.
        inner = table.get(parent, default.component_name if isinstance(default, Component) else {})
        if isinstance(inner, str):  # a component given by its name alone
            inner = {"name": inner}
        if not isinstance(inner, dict) and not _is_tables(inner):
            raise RecipeError(f"{said}: {parent} is a value, not a table.")
        table[parent] = inner
        table = inner
    if isinstance(table, list):
        raise RecipeError(f"{said}: {parents[-1]} is listed; say which, for example {parents[-1]}.0.{last}.")
    table[last] = value


def _is_tables(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _entry(entries: list[Any], number: str, said: str) -> dict[str, Any]:
    if not number.isdecimal() or int(number) >= len(entries):
        raise RecipeError(f"{said}: {number!r} is not an entry of the list; it has 0 to {len(entries) - 1}.")
    return entries[int(number)]


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_none(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(entry) for entry in value]
    return value
