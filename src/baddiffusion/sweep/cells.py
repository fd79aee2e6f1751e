"""A sweep: an ordinary recipe, and which of its keys take which values."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tomli_w

from baddiffusion.errors import RecipeError
from baddiffusion.recipe import Recipe, applied, read_table

__all__ = ["Cell", "Sweep", "in_words", "value_in_words"]

Settings = dict[str, Any]
"""Values by dotted recipe key."""


@dataclass(frozen=True)
class Cell:
    """One experiment of a sweep.

    Args:
        recipe: what it does, with every default written out.
        settings: its values of the keys that the sweep varies; a key that its recipe does not have is left out.
    """

    recipe: Recipe
    settings: Settings

    @cached_property
    def key(self) -> str:
        """Name of its run directory: two sweeps that ask for the same experiment share it."""
        return f"{self.recipe.name}-{self.recipe.digest}"


@dataclass(frozen=True)
class Sweep:
    """Cells that a recipe with ``[grid]`` and ``[[cases]]`` stands for.

    Args:
        name: of the recipe, and of the sweep's folder.
        text: TOML that `load` reads back to an equal sweep.
        cells: the product of the lists in ``[grid]``, then those of each case.
        varied: the keys that ``[grid]`` and ``[[cases]]`` set, as they come.
    """

    name: str
    text: str
    cells: tuple[Cell, ...]
    varied: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Hash of all cells and of what is told of them, 8 hex digits: part of the folder's name."""
        told = [[cell.key, cell.settings] for cell in self.cells]
        return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=4).hexdigest()

    @classmethod
    def load(cls, source: str | Path, overrides: Iterable[str] = ()) -> Sweep:
        """Read a sweep from a recipe file, or a packaged one by name.

        Args:
            source: TOML. ``[grid]`` holds lists, of which all combinations are taken; each of ``[[cases]]`` holds
                values, or lists that multiply within their case. A key is a recipe's, dotted: ``"poison.rate"``.
            overrides: ``key.path=value``, for all cells.

        Raises:
            RecipeError: what a recipe raises; nothing is varied, or not by lists; two cells are one recipe; or an
                override has no effect. The message ends with the file's name.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = Path(folder) / "rates.toml"
            ...     _ = path.write_text('name = "rates"\\ndata = "fashion-mnist"\\ngrid = {"poison.rate" = [0.0, 0.1]}')
            ...     [in_words(cell.settings) for cell in Sweep.load(path, ["seed=7"]).cells]
            ['poison.rate=0.0', 'poison.rate=0.1']
        """
        overrides = list(overrides)
        table, path = read_table(source)
        try:
            table = applied(table, overrides)
            text = tomli_w.dumps(table) if overrides else path.read_text()
            chosen = _choices(table)
            _check_effect(overrides, chosen)
            varied = tuple(dict.fromkeys(key for settings in chosen for key in settings))
            cells = tuple(_cell(table, settings, varied) for settings in chosen)
            _check_apart(cells, chosen)
        except RecipeError as error:
            raise type(error)(f"{error} ({path.name})") from None
        return cls(table["name"], text, cells, varied)


def in_words(settings: Mapping[str, Any]) -> str:
    """Say settings as they would stand behind ``--set``.

    Example:
        >>> in_words({"trigger": {"name": "box", "side_px": 8}, "target": "hat", "poison.rate": 0.05})
        'trigger=box:side_px=8 target=hat poison.rate=0.05'
    """
    return " ".join(f"{key}={value_in_words(value)}" for key, value in settings.items())


def value_in_words(value: Any) -> str:
    """Say one value; a component by its name and fields."""
    if isinstance(value, Mapping):
        fields = ",".join(f"{key}={value_in_words(entry)}" for key, entry in value.items() if key != "name")
        return ":".join(part for part in (str(value.get("name", "")), fields) if part)
    return value if isinstance(value, str) else json.dumps(value)


def _choices(table: dict[str, Any]) -> list[Settings]:
    """Take ``grid`` and ``cases`` out of a recipe's table: what each cell sets."""
    grid, cases = table.pop("grid", {}), table.pop("cases", [])
    if not isinstance(grid, dict) or not isinstance(cases, list) or not all(isinstance(case, dict) for case in cases):
        raise RecipeError("[grid] must be one table, and [[cases]], with two brackets, one for each case.")
    if not grid and not cases:
        raise RecipeError("there is no [grid] and no [[cases]]: this is one experiment; use baddiffusion run.")
    chosen: list[Settings] = []
    if grid:
        lists = dict(_leaves(grid))
        for key, values in lists.items():
            if not isinstance(values, list):
                raise RecipeError(
                    f"grid.{key} is {values!r}; it must be a list. What all cells share stands above [grid]."
                )
        chosen += _product(lists, "grid")
    for number, case in enumerate(cases):
        entries = dict(_leaves(case, whole="name"))
        lists = {key: value if isinstance(value, list) else [value] for key, value in entries.items()}
        chosen += _product(lists, f"cases.{number}")
    return chosen


def _product(lists: dict[str, list[Any]], where: str) -> list[Settings]:
    for key, values in lists.items():
        if not values:
            raise RecipeError(f"{where}.{key} is an empty list; there is nothing to run. Name a value, or remove it.")
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _leaves(table: dict[str, Any], whole: str | None = None, path: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key, whether the dots stood in quotes or not; a table that has the key ``whole`` is a value."""
    for key, value in table.items():
        if isinstance(value, dict) and whole not in value:
            yield from _leaves(value, whole, f"{path}{key}.")
        else:
            yield path + key, value


def _cell(table: dict[str, Any], settings: Settings, varied: tuple[str, ...]) -> Cell:
    own = applied(table, settings.items())
    recipe = Recipe(**own)
    resolved = recipe.to_dict()
    told = {}
    for key in varied:
        for holder in (settings, own, resolved):
            found = settings.get(key) if holder is settings else _value(holder, key)
            if found is not None:
                told[key] = found
                break
    return Cell(recipe, told)


def _value(table: Any, key: str) -> Any:
    """The value at a dotted key; None if there is none."""
    for part in key.split("."):
        table = table.get(part) if isinstance(table, Mapping) else None
    return table


def _check_effect(overrides: Iterable[str], chosen: list[Settings]) -> None:
    for override in overrides:
        key = override.partition("=")[0].strip()
        if all(any(key == name or key.startswith(f"{name}.") for name in settings) for settings in chosen):
            raise RecipeError(
                f"--set {override!r} has no effect: every cell sets {key} by itself. Change the sweep, for example by "
                f"--set 'grid.{key}=[...]'."
            )


def _check_apart(cells: Iterable[Cell], chosen: Iterable[Settings]) -> None:
    seen: dict[str, str] = {}
    for cell, settings in zip(cells, chosen, strict=True):
        words = in_words(settings) or "the case that sets nothing"
        if cell.key in seen:
            raise RecipeError(
                f"two cells are the same experiment: {seen[cell.key]}, and {words}. Take one of them out of the sweep."
            )
        seen[cell.key] = words
