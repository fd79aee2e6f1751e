"""Components by name: recipes and model cards name them, never an import path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Generic, TypeVar

from baddiffusion.errors import RecipeError, UnknownComponent, nearest
from baddiffusion.settings import Settings

__all__ = ["Component", "Registry"]


class Component(Settings):
    """A frozen model with typed fields: its fields are its configuration, its dictionary its entry in a recipe."""

    component_name: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return ``{"name": ..., **fields}``, which `Registry.parse` turns back into an equal component."""
        return {"name": self.component_name, **self.model_dump(mode="json")}


C = TypeVar("C", bound=Component)
K = TypeVar("K", bound=Component)


class Registry(Generic[C]):
    """The components of one kind, by name and by alias.

    Args:
        kind: the singular noun of the kind, used in messages ("trigger").

    Example:
        >>> from baddiffusion.triggers import TRIGGERS
        >>> TRIGGERS.parse("BOX_14") == TRIGGERS.parse({"name": "box", "side_px": 14})
        True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type[C]] = {}
        self._aliases: dict[str, dict[str, Any]] = {}

    def register(
        self, name: str, aliases: Mapping[str, Mapping[str, Any]] | None = None
    ) -> Callable[[type[K]], type[K]]:
        """Class decorator: make the component known as ``name``; an alias maps to the fields that it fixes."""

        def decorate(cls: type[K]) -> type[K]:
            cls.component_name = name
            self._classes[name] = cls  # type: ignore[assignment]
            for alias, fields in (aliases or {}).items():
                self._aliases[alias.lower()] = {"name": name, **fields}
            return cls

        return decorate

    def parse(self, value: object) -> C:
        """Turn a name, an alias or a ``{"name": ..., fields}`` table into a component; a component stays what it is.

        Raises:
            UnknownComponent: no component has that name; the message suggests the nearest.
            RecipeError: the table has no name, or a field is wrong.
        """
        if isinstance(value, Component):
            if type(value) not in self._classes.values():
                raise UnknownComponent(f"{value!r} is not a {self.kind}. Known: {', '.join(self)}.")
            return value  # type: ignore[return-value]
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("name"), str):
            raise RecipeError(
                f"name is missing from {value!r}; a {self.kind} is a name or a table with a name, "
                f'for example name = "{next(iter(self))}".'
            )
        fields = dict(value)
        name = fields.pop("name")
        alias = dict(self._aliases.get(name.lower(), {}))
        resolved = alias.pop("name", name.lower())
        if resolved not in self._classes:
            raise UnknownComponent(
                f"name {name!r} is not a known {self.kind}. {nearest(name, [*self._classes, *self._aliases])}"
                f"Known: {', '.join(self)}."
            )
        return self._classes[resolved](**{**alias, **fields})

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __getitem__(self, name: str) -> type[C]:
        return self._classes[name]

    @property
    def aliases(self) -> dict[str, dict[str, Any]]:
        """Alias (lower case) → the table that it stands for."""
        return dict(self._aliases)
