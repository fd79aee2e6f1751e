"""The verb that lists what has a name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Literal

from baddiffusion.cli.app import LOOK, Json, app
from baddiffusion.cli.printing import say, say_json, table

__all__ = ["catalog", "list_names"]

MAX_ALIASES = 5
Kind = Literal["triggers", "targets", "attacks", "data", "samplers", "models", "recipes"]


@app.command(name="list", group=LOOK, sort_key=1)
def list_names(kind: Kind | None = None, /, *, json: Json = False) -> None:
    """List triggers, targets, attacks, data, samplers, models, recipes.

    Example: `baddiffusion list triggers`

    Args:
        kind: One of them; left out, all.
        json: Write {kind: {name: what it is}} as JSON.
    """
    chosen = {each: catalog(each) for each in ([kind] if kind else READERS)}
    if json:
        say_json(chosen)
        return
    for title, entries in chosen.items():
        say(title)
        say(table(sorted(entries.items()), indent="  "))


def catalog(kind: str) -> dict[str, str]:
    """The names of one kind, each with one line on what it is."""
    return READERS[kind]()


def _components(kind: str) -> dict[str, str]:
    from baddiffusion.cli.components import registries

    registry = registries()[kind]
    also: dict[str, list[str]] = {name: [] for name in registry}
    for alias, component in registry.aliases.items():
        if alias.replace("_", "-") != component["name"]:
            also[component["name"]].append(alias.upper())
    lines = {}
    for name, aliases in also.items():
        first = (inspect.getdoc(registry[name]) or "").partition("\n")[0]
        more = ", …" if len(aliases) > MAX_ALIASES else ""
        lines[name] = first + (f" Also: {', '.join(aliases[:MAX_ALIASES])}{more}" if aliases else "")
    return lines


def _models() -> dict[str, str]:
    from baddiffusion.hub.names import packaged
    from baddiffusion.models import PRESETS

    networks = {
        name: f"Network to train from scratch (model.preset); channels {config['block_out_channels']}."
        for name, config in PRESETS.items()
    }
    return {**networks, **{f"packaged:{name}": "Checkpoint inside the package (model.base)." for name in packaged()}}


def _recipes() -> dict[str, str]:
    from baddiffusion.recipe import packaged_recipes

    return {name: _opening(path.read_text()) for name, path in packaged_recipes().items()}


def _opening(text: str) -> str:
    """What the comment at the head of a recipe says after its command."""
    head = text.partition("\nname")[0]
    lines = [line.removeprefix("#").strip() for line in head.splitlines() if line.startswith("#")]
    return " ".join(line for line in lines if not line.startswith("baddiffusion "))


READERS: dict[str, Callable[[], dict[str, str]]] = {
    "triggers": lambda: _components("triggers"),
    "targets": lambda: _components("targets"),
    "attacks": lambda: _components("attacks"),
    "data": lambda: _components("data"),
    "samplers": lambda: _components("samplers"),
    "models": _models,
    "recipes": _recipes,
}
