"""The registries by the plural under which the command line lists them, and one component as text."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from baddiffusion.cli.printing import table

if TYPE_CHECKING:
    from baddiffusion.registry import Component, Registry

__all__ = ["component_entries", "component_text", "registries"]

REQUIRED = "required"


def registries() -> dict[str, Registry[Any]]:
    """Every registry of components."""
    from baddiffusion.attacks import ATTACKS
    from baddiffusion.data import SOURCES
    from baddiffusion.sampling import SAMPLERS
    from baddiffusion.targets import TARGETS
    from baddiffusion.triggers import TRIGGERS

    return {"triggers": TRIGGERS, "targets": TARGETS, "attacks": ATTACKS, "data": SOURCES, "samplers": SAMPLERS}


def component_entries(name: str) -> list[dict[str, Any]]:
    """What every kind knows under a name or alias: kind, name, fields with type and default, aliases, explanation."""
    return [
        _entry(registry, *_resolve(registry, name)) for registry in registries().values() if _resolve(registry, name)[0]
    ]


def component_text(entry: dict[str, Any]) -> str:
    """The same for people."""
    rows = [(name, field["type"], _default_words(field["default"])) for name, field in entry["fields"].items()]
    parts = [f"{entry['kind']} {entry['name']}", entry["explanation"]]
    parts += ["fields:\n" + table(rows, indent="  ")] if rows else []
    if entry["aliases"]:
        aliases = [
            (alias, ", ".join(f"{k} = {v}" for k, v in fixed.items())) for alias, fixed in entry["aliases"].items()
        ]
        parts.append("aliases:\n" + table(aliases, indent="  "))
    return "\n\n".join(parts)


def _default_words(default: Any) -> str:
    return default if default == REQUIRED else f"default {default}"


def _resolve(registry: Registry[Any], name: str) -> tuple[str, dict[str, Any]]:
    """The registered name behind a name or an alias, and the fields that the alias fixes; empty if unknown."""
    alias = dict(registry.aliases.get(name.lower(), {}))
    resolved = alias.pop("name", name.lower())
    return (resolved, alias) if resolved in list(registry) else ("", {})


def _entry(registry: Registry[Any], name: str, fixed: dict[str, Any]) -> dict[str, Any]:
    cls: type[Component] = registry[name]
    fields = {}
    for key, field in cls.model_fields.items():
        default = REQUIRED if field.is_required() else _plain(field.get_default(call_default_factory=True))
        fields[key] = {
            "type": _type_words(field.annotation),
            "default": fixed.get(key, default),
        }
    aliases = {
        alias.upper(): {k: v for k, v in target.items() if k != "name"}
        for alias, target in registry.aliases.items()
        if target["name"] == name
    }
    return {
        "kind": registry.kind,
        "name": name,
        "explanation": inspect.getdoc(cls) or "",
        "fields": fields,
        "aliases": aliases,
    }


def _type_words(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type_words(arguments[0])
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin in (Union, UnionType):
        return " | ".join(_type_words(argument) for argument in arguments)
    if annotation is type(None):
        return "nothing"
    return getattr(annotation, "__name__", str(annotation))


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
