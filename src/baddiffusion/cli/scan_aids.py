"""The part of scan that goes beyond its forward passes: --deep and --siblings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

from cyclopts import Parameter

from baddiffusion.cli.printing import count, duration, note
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    from baddiffusion.scanner.inversion import DeepMethod

__all__ = ["Aids"]

Tokens = Annotated[tuple[str, ...] | None, Parameter(consume_multiple=True, negative="", show_default=False)]


@Parameter(name="*", group="Looking further")
@dataclass(frozen=True, kw_only=True)
class Aids:
    """What a scan may look at beyond its forward passes."""

    deep: Tokens = None
    """Where the rest proves no backdoor, search for a shift by gradients: elijah, terd, collapse or far-field; without
    a word after it, elijah. What is found has to pass the same causal check."""
    deep_budget: int | None = None
    """Network calls of that search at most, on top of --budget; left out, 30 000."""
    siblings: Tokens = None
    """Clean models of the same shape and schedule: a collapse that they show too does not count, and the share of them
    that looks as suspicious is a p-value. Each is scanned, at the cost of a scan."""

    @property
    def method(self) -> DeepMethod | None:
        """How to search; None for not at all.

        Raises:
            RecipeError: no such method, or more than one.
        """
        if self.deep is None:
            return None
        from baddiffusion.scanner.deep import DEFAULT_METHOD
        from baddiffusion.scanner.inversion import DeepMethod

        names = get_args(DeepMethod)
        given = self.deep or (DEFAULT_METHOD,)
        if len(given) > 1 or given[0] not in names:
            raise RecipeError(
                f"--deep is {' '.join(given)!r}; it takes one of {', '.join(names)}, or nothing. The model comes "
                f"before it."
            )
        return cast("DeepMethod", given[0])

    @property
    def calls(self) -> int:
        """Network calls of the search by gradients at most; 0 without one.

        Raises:
            RecipeError: below 1, or without ``--deep``.
        """
        from baddiffusion.scanner import DEEP_BUDGET

        if self.deep_budget is not None and (self.deep is None or self.deep_budget < 1):
            raise RecipeError(f"--deep-budget is {self.deep_budget}; it must be at least 1, and it needs --deep.")
        return 0 if self.deep is None else self.deep_budget or DEEP_BUDGET

    def refuse(self) -> None:
        """Say that a scan of many models takes none of this.

        Raises:
            RecipeError: something of it was given.
        """
        for name, value in (("deep", self.deep), ("deep-budget", self.deep_budget), ("siblings", self.siblings)):
            if value is not None:
                raise RecipeError(f"--{name} is about one model; --from takes none of it.")

    def folders(self) -> list[Path]:
        """The siblings' folders.

        Raises:
            RecipeError: no name after ``--siblings``.
            CheckpointError: one does not exist.
        """
        from baddiffusion.hub import resolve

        if self.siblings == ():
            raise RecipeError("--siblings names no model; give at least one.")
        return [resolve(name) for name in self.siblings or ()]

    def tell_cost(self, calls: int, each: float) -> None:
        """Say what this may add to a scan.

        Args:
            calls: of the scan at most.
            each: seconds for one.
        """
        deep, siblings = self.calls, len(self.siblings or ())
        if deep:
            note(f"The search by gradients, if needed: at most {count(deep)} more, about {duration(deep * each)}.")
        if siblings:
            more = siblings * (calls + deep)
            note(f"{siblings} siblings are scanned alike: at most {count(more)} more, about {duration(more * each)}.")

    def options(self) -> dict[str, Any]:
        """What `baddiffusion.scanner.scan` takes."""
        method = self.method
        return {"siblings": self.folders(), **({"deep": method, "deep_budget": self.calls} if method else {})}
