"""A measured number, with everything that is needed to read it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from baddiffusion.errors import EvaluationError, nearest

__all__ = ["Better", "Estimate", "Protocol", "Scalar"]

Better = Literal["lower", "higher", "neither"]
"""Which direction is the better one; ``neither`` for numbers that only locate others (a floor, a baseline)."""

Scalar = str | int | float | bool | None
Protocol = Mapping[str, Scalar]
"""How a number was made: every choice that would change it, by name."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number with its interval, its n, its protocol and its caveats; no result of this package is a bare float.

    Two numbers may be compared only where their protocols agree, so the protocol travels with the value instead of
    standing in a caption.

    Args:
        name: what was measured, for example ``asr`` or ``kd_efflite0``.
        value: the point estimate.
        low, high: the ends of the confidence interval; both None where there is none (an exact number, one image).
        level: the confidence level, in (0, 1).
        n: how many images the value stands on, at least 1.
        better: ``lower``, ``higher`` or ``neither``.
        unit: what the value is counted in, for example ``share of images``.
        protocol: every choice that would change the value, JSON scalars by name.
        caveats: sentences about what weakens the number.

    Raises:
        EvaluationError: a number is not finite, the interval does not hold the value, or n or the level is impossible.

    Example:
        >>> print(Estimate(name="asr", value=0.9375, low=0.7985288, high=0.9827, n=32, better="higher", unit="share"))
        asr 0.938 [0.799, 0.983] (95 %, n = 32)
    """

    name: str
    value: float
    low: float | None
    high: float | None
    level: float = 0.95
    n: int
    better: Better
    unit: str
    protocol: Protocol = field(default_factory=dict)
    caveats: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        low, high = self.interval
        if not all(math.isfinite(number) for number in (low, self.value, high)):
            raise EvaluationError(
                f"{self.name} came out as {self.value} [{self.low}, {self.high}]; every number must be finite. "
                f"Look for NaN or infinity in the images."
            )
        if (self.low is None) != (self.high is None) or not low <= self.value <= high:
            raise EvaluationError(
                f"{self.name} has value {self.value} and interval [{self.low}, {self.high}]; give both ends with "
                f"low ≤ value ≤ high, or None for both."
            )
        if not 0 < self.level < 1:
            raise EvaluationError(f"{self.name} has level {self.level}; it must lie in (0, 1). Write 0.95 for 95 %.")
        if self.n < 1:
            raise EvaluationError(f"{self.name} has n = {self.n}; it must be at least 1: there is nothing to measure.")

    @property
    def interval(self) -> tuple[float, float]:
        """Both ends of the interval; the value twice where there is none."""
        return (self.value if self.low is None else self.low), (self.value if self.high is None else self.high)

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.name} {_short(self.value)} (n = {self.n})"
        interval = f"[{_short(self.low)}, {_short(self.high)}]"
        return f"{self.name} {_short(self.value)} {interval} ({100 * self.level:g} %, n = {self.n})"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, which `from_dict` turns back into an equal estimate."""
        return {**asdict(self), "protocol": dict(self.protocol), "caveats": list(self.caveats)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Estimate:
        """Read what `to_dict` wrote.

        Raises:
            EvaluationError: a key is unknown or missing, a value of the wrong kind, or the numbers contradict each
                other.
        """
        known = [part.name for part in fields(cls)]
        for key in values:
            if key not in known:
                raise EvaluationError(
                    f"{key!r} is not a part of an estimate. {nearest(str(key), known)}Known parts: {', '.join(known)}."
                )
        missing = [name for name in known if name not in values]
        if missing:
            raise EvaluationError(f"an estimate lacks {', '.join(missing)}; its parts are {', '.join(known)}.")
        if values["better"] not in get_args(Better):
            raise EvaluationError(f"better is {values['better']!r}; it must be one of {', '.join(get_args(Better))}.")
        try:
            low, high = (None if values[end] is None else float(values[end]) for end in ("low", "high"))
            value, level, n = float(values["value"]), float(values["level"]), int(values["n"])
            protocol, caveats = dict(values["protocol"]), tuple(values["caveats"])
        except (TypeError, ValueError) as error:
            raise EvaluationError(
                f"the estimate {values['name']!r} has a part of the wrong kind ({error}); measure again."
            ) from None
        return cls(
            name=values["name"],
            value=value,
            low=low,
            high=high,
            level=level,
            n=n,
            better=values["better"],
            unit=values["unit"],
            protocol=protocol,
            caveats=caveats,
        )


def _short(number: float) -> str:
    return f"{number:#.3g}".rstrip(".")
