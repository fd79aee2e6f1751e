from __future__ import annotations

import json
from typing import Any

import pytest

from baddiffusion.attacks import ATTACKS
from baddiffusion.data import SOURCES
from baddiffusion.errors import RecipeError, UnknownComponent, nearest
from baddiffusion.registry import Component, Registry
from baddiffusion.sampling import SAMPLERS
from baddiffusion.targets import TARGETS
from baddiffusion.triggers import TRIGGERS

REGISTRIES = [ATTACKS, SOURCES, SAMPLERS, TARGETS, TRIGGERS]
COMPONENTS = [pytest.param(r, name, id=f"{r.kind}-{name}") for r in REGISTRIES for name in r]
ALIASES = [pytest.param(r, alias, id=f"{r.kind}-{alias}") for r in REGISTRIES for alias in r.aliases]


def table(registry: Registry, name: str) -> dict[str, Any]:
    """The shortest table that names the component: required fields are all paths or names."""
    fields = registry[name].model_fields
    return {"name": name, **{key: "some/path.png" for key, field in fields.items() if field.is_required()}}


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.kind)
def test_every_kind_has_components(registry: Registry) -> None:
    assert list(registry) == sorted(registry)
    assert len(list(registry)) >= 2


@pytest.mark.parametrize(("registry", "name"), COMPONENTS)
def test_a_component_survives_its_dictionary(registry: Registry, name: str) -> None:
    component = registry.parse(table(registry, name))
    entry = json.loads(json.dumps(component.to_dict()))
    assert entry["name"] == name == type(component).component_name
    again = registry.parse({k: v for k, v in entry.items() if v is not None})
    assert again == component
    assert repr(again) == repr(component)
    assert again.to_dict() == component.to_dict()
    assert registry.parse(component) is component


@pytest.mark.parametrize(("registry", "name"), COMPONENTS)
def test_a_component_is_documented_frozen_and_found_in_any_case(registry: Registry, name: str) -> None:
    component = registry.parse(table(registry, name))
    assert type(component).__doc__
    assert registry.parse({**table(registry, name), "name": name.upper()}) == component
    field = next(iter(type(component).model_fields), "anything")
    with pytest.raises(ValueError, match=r"frozen|no field"):
        setattr(component, field, "other")


@pytest.mark.parametrize(("registry", "name"), COMPONENTS)
def test_an_unknown_field_is_refused_by_name(registry: Registry, name: str) -> None:
    with pytest.raises(RecipeError, match=r"^sise_px is not a known key\. "):
        registry.parse({**table(registry, name), "sise_px": 3})


@pytest.mark.parametrize(("registry", "alias"), ALIASES)
def test_an_alias_is_the_component_with_the_fields_it_names(registry: Registry, alias: str) -> None:
    entry = registry.aliases[alias]
    required = table(registry, entry["name"])
    component = registry.parse({**required, "name": alias.upper()})
    assert component == registry.parse({**required, **entry})
    assert alias == entry["name"] or alias not in list(registry)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.kind)
def test_an_unknown_name_is_refused_with_all_known_ones(registry: Registry) -> None:
    known = ", ".join(registry)
    with pytest.raises(UnknownComponent, match=rf"^name 'qqqqq' is not a known {registry.kind}\. Known: ") as caught:
        registry.parse("qqqqq")
    assert str(caught.value).endswith(f"Known: {known}.")
    first = next(iter(registry))
    with pytest.raises(UnknownComponent, match=rf"Did you mean '{first}'\? Known: "):
        registry.parse(first + "x")


@pytest.mark.parametrize("value", [3, None, ["box"], {"side_px": 3}, {"name": 3}], ids=repr)
def test_what_is_neither_a_name_nor_a_table_is_refused(value: object) -> None:
    with pytest.raises(
        RecipeError, match=r"; a trigger is a name or a table with a name, for example name = \"box\"\.$"
    ):
        TRIGGERS.parse(value)  # type: ignore[arg-type]


def test_a_component_of_another_kind_is_refused() -> None:
    with pytest.raises(UnknownComponent, match=r"^BadDiffusion\(\) is not a trigger\. Known: box, "):
        TRIGGERS.parse(ATTACKS.parse("baddiffusion"))  # type: ignore[arg-type]


def test_a_component_that_is_not_registered_is_refused() -> None:
    class Stray(Component):
        pass

    with pytest.raises(UnknownComponent, match=r"^Stray\(\) is not a trigger\."):
        TRIGGERS.parse(Stray())  # type: ignore[arg-type]


def test_registering_takes_one_decorator() -> None:
    kind: Registry[Component] = Registry("thing")

    @kind.register("mine", aliases={"OURS_3": {"size": 3}})
    class Mine(Component):
        size: int = 1

    assert list(kind) == ["mine"]
    assert kind.parse("mine") == Mine()
    assert kind.parse("ours_3") == Mine(size=3)
    assert kind.parse({"name": "OURS_3", "size": 4}) == Mine(size=4)
    assert Mine().to_dict() == {"name": "mine", "size": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("bocks", "Did you mean 'box'? "), ("BOX", "Did you mean 'box'? "), ("zzz", ""), ("", "")],
)
def test_the_nearest_name(name: str, expected: str) -> None:
    assert nearest(name, ["box", "stop-sign"]) == expected


def test_the_nearest_name_keeps_its_case() -> None:
    assert nearest("box_14", ["BOX_14"]) == "Did you mean 'BOX_14'? "
    assert nearest("box", []) == ""
