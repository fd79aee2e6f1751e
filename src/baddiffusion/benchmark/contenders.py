"""Who competes, and how much each may spend: the packaged table of budgets, and whatever else is registered."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

from baddiffusion.benchmark.leak_detector import Leak
from baddiffusion.benchmark.no_repair import NoRepair
from baddiffusion.benchmark.scan_detector import Scan
from baddiffusion.defending import method_named
from baddiffusion.defenses import DETECTORS, REPAIRS, Detector, Method, Repair
from baddiffusion.errors import RecipeError, UnknownComponent, nearest

__all__ = ["Budget", "Contender", "contenders", "plan_table", "select"]

Budget = Literal["published", "short"]
GROUPS = {"detectors": Detector, "repairs": Repair}
OWN: dict[str, type[Method]] = {"scan": Scan, "leak": Leak, "no-repair": NoRepair}
"""What only the benchmark has."""


@dataclass(frozen=True)
class Contender:
    """A method with its settings.

    Args:
        method: a detector or a repair.
        budget: what the settings are: the method's own, or cut short.
        score: which scores of a detector are its number; several are put on one scale by the clean calibration models.
            Empty for all of them, and for repairs.
    """

    method: Method
    budget: Budget
    score: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name under which results stand."""
        return self.method.label

    @property
    def is_detector(self) -> bool:
        """Whether it looks; else it repairs."""
        return isinstance(self.method, Detector)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` makes an equal one of it."""
        return {
            "kind": "detector" if self.is_detector else "repair",
            "budget": self.budget,
            "score": list(self.score),
            "settings": self.method.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Contender:
        """Read what `to_dict` wrote.

        Raises:
            UnknownComponent: the method is not registered here.
        """
        fields = dict(values["settings"])
        return cls(_method(fields.pop("name"), fields), values["budget"], tuple(values["score"]))


def plan_table() -> dict[str, Any]:
    """The packaged table: budgets, how repairs are measured, at which rates detectors are judged."""
    return tomllib.loads((resources.files("baddiffusion.benchmark") / "budgets.toml").read_text(encoding="utf-8"))


def contenders() -> list[Contender]:
    """All of them, each at every budget that it has: those of the table, then others that are registered.

    Example:
        >>> labels = [one.label for one in contenders()]
        >>> labels[:3], "terd-short" in labels
        (['scan', 'scan-short', 'leak'], True)
    """
    lines = plan_table()["method"]
    found = [contender for line in lines for contender in _of(line)]
    named = {line["name"] for line in lines}
    rest = (name for registry in (DETECTORS, REPAIRS) for name in registry if name not in named)
    return [*found, *(Contender(_method(name, {}), "published") for name in rest)]


def select(only: Sequence[str] = (), short: bool = False) -> list[Contender]:
    """Those that are asked for, in the order of the table.

    Args:
        only: labels (``terd``, ``terd-short``), ``detectors`` or ``repairs``; empty for all.
        short: the cut budgets in place of the published ones, of methods that have one.

    Raises:
        UnknownComponent: a name that nothing has; the message suggests the nearest.

    Example:
        >>> [one.label for one in select(["elijah", "averaging"], short=True)]
        ['elijah-short', 'averaging']
    """
    every = contenders()
    labels = [one.label for one in every]
    for name in only:
        if name not in (*labels, *GROUPS):
            raise UnknownComponent(
                f"--only {name} is not in the benchmark. {nearest(name, [*labels, *GROUPS])}It has "
                f"{', '.join(labels)}; detectors and repairs stand for all of a kind."
            )
    cut = {one.method.component_name for one in every if short and one.budget == "short"}
    usual = [one for one in every if (one.budget == "short") == (one.method.component_name in cut)]
    if not only:
        return usual
    wanted = {one.label for one in usual if one.method.component_name in only or any(_is(one, name) for name in only)}
    wanted |= {name for name in only if name.endswith("-short")}
    return [one for one in every if one.label in wanted]


def _is(contender: Contender, group: str) -> bool:
    return group in GROUPS and isinstance(contender.method, GROUPS[group])


def _of(line: Mapping[str, Any]) -> Iterator[Contender]:
    budgets: tuple[Budget, Budget] = ("published", "short")
    for budget in budgets:
        if budget not in line:
            continue
        method = _method(line["name"], line[budget])
        if (method.label == method.component_name) != (budget == "published"):
            raise RecipeError(
                f"the {budget} budget of {line['name']} in budgets.toml makes {method.label}; mend the line."
            )
        yield Contender(method, budget, tuple(line.get("score", ())))


def _method(name: str, fields: Mapping[str, Any]) -> Method:
    return OWN[name](**fields) if name in OWN else method_named(name, fields)
