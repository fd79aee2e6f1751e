"""What is asked of every model of a queue, and what each may take."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import metadata, resources
from typing import Any

from baddiffusion.errors import RecipeError, RunError

__all__ = ["Asked", "Limits", "read_duration", "read_size"]

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
LEAST_BYTES = 1 << 30
"""Less than the program itself takes with its libraries, and no scan would begin."""


@dataclass(frozen=True)
class Asked:
    """The same for every model: with a model's bytes it decides the scan.

    Args:
        seed: decides everything random.
        budget: network calls at most; 0 for the files alone.
        base: the folder of what they were made from, as it was given; empty for none.
        base_name: what it is called; empty for none.
        base_digest: of its files; empty for none.
    """

    seed: int = 0
    budget: int = 13_000
    base: str = ""
    base_name: str = ""
    base_digest: str = ""

    @property
    def key(self) -> str:
        """Hash of what is asked and of who answers: version, form of the record, and the scanner itself."""
        told = {"seed": self.seed, "budget": self.budget, "base": self.base_digest, **_answering()}
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it, for a worker elsewhere."""
        return {**asdict(self), "key": self.key}

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Asked:
        """What `to_dict` made, in a process that must have the same scanner.

        Raises:
            RunError: it has another one.
        """
        made = cls(**{name: value for name, value in table.items() if name != "key"})
        if made.key != table["key"]:
            raise RunError("the scanner is another one than when the queue began; start the same command again.")
        return made

    def told(self) -> dict[str, Any]:
        """The same for a record: without places of this machine."""
        return {"seed": self.seed, "budget": self.budget, "base": self.base_name, "base_digest": self.base_digest,
                **_answering()}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What one model may take.

    Args:
        seconds: on the clock; None for any.
        memory: bytes that its process holds; None for any.
    """

    seconds: float | None = None
    memory: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    def allow_more(self, than: dict[str, Any], what: str) -> bool:
        """Whether another try may take more of what the last one ran out of.

        Args:
            than: the limits of that try, as `to_dict` has them.
            what: ``seconds`` or ``memory``.
        """
        now, then = getattr(self, what), than[what]
        return then is not None and (now is None or now > then)


def read_duration(text: str, flag: str = "--timeout") -> float:
    """Read a time.

    Raises:
        RecipeError: it is none.

    Example:
        >>> read_duration("30m"), read_duration("90s")
        (1800.0, 90.0)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text.strip())
    if match is None or float(match[1]) <= 0:
        raise RecipeError(f"{flag} is {text!r}; give a time such as 90s, 30m or 2h.")
    return float(match[1]) * SECONDS[match[2]]


def read_size(text: str, flag: str = "--memory") -> int:
    """Read an amount of memory.

    Raises:
        RecipeError: it is none, or too small for any scan.

    Example:
        >>> read_size("8g") == 8 * 2**30
        True
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mgt])b?", text.strip().lower())
    if match is None:
        raise RecipeError(f"{flag} is {text!r}; give an amount of memory such as 8g.")
    size = int(float(match[1]) * BYTES[match[2]])
    if size < LEAST_BYTES:
        raise RecipeError(f"{flag} is {text!r}; the program itself takes about half of that; give at least 1g.")
    return size


@cache
def _answering() -> dict[str, Any]:
    """Who answers. The scanner is hashed as it is written, thresholds and all, so that it need not be imported."""
    folder = resources.files("baddiffusion") / "scanner"
    schema = json.loads((folder / "scan.schema.json").read_text(encoding="utf-8"))
    sources = hashlib.sha256()
    for file in sorted(folder.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py"):
            sources.update(file.name.encode() + b"\n" + file.read_bytes())
    return {
        "version": metadata.version("baddiffusion"),
        "schema": schema["properties"]["schema"]["const"],
        "scanner": sources.hexdigest()[:16],
    }
