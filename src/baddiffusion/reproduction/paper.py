"""The paper's numbers, from the packaged table."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from baddiffusion.settings import Settings

__all__ = ["PaperRow", "paper_rows"]

INFERRED = "(inferred)"
NUMBER = re.compile(r"\d+(\.\d+)?")


def _leading_number(text: object) -> object:
    """The number that a cell opens with; what follows says where it comes from, and stays in the note."""
    found = NUMBER.match(text) if isinstance(text, str) else None
    return float(found.group()) if found else None if isinstance(text, str) else text


class PaperRow(Settings):
    """One published number, with the setting that it was made in.

    Args:
        table: where it stands: ``T3`` … ``T11``, or the source of what no table of the paper holds.
        dataset, trigger, target: in the paper's words.
        poison_rate: in [0, 1]; the text says where it is inferred.
        epochs: of the training, as written: ``50``, or ``best of 1-5``.
        method: ``fine-tune``, ``from-scratch``, ``pre-trained``, or a sentence.
        sampler: with its steps behind.
        clip: ``yes``, ``no``, or which kind.
        trigger_size: side in pixels; None where there is none.
        metric: what was measured; what is not printed in the paper but inferred says so.
        value: the number.

    Source: arXiv 2212.05400, appendix; ``assets/paper/PROVENANCE.md`` has the rest.
    """

    table: str
    dataset: str
    trigger: str
    target: str
    poison_rate: str
    epochs: str
    method: str
    sampler: str
    clip: str
    trigger_size: Annotated[int | None, BeforeValidator(_leading_number)] = None
    metric: Annotated[str, Field(min_length=1)]
    value: float

    @property
    def rate(self) -> float:
        """The poison rate as a number."""
        return float(str(_leading_number(self.poison_rate)))

    @property
    def model(self) -> str:
        """How the network came about, in the words of our own rows."""
        if self.method == "pre-trained" or self.rate == 0:
            return "pre-trained"
        return "from scratch" if self.method == "from-scratch" else "fine-tuned"

    @property
    def perturbation(self) -> tuple[float, float]:
        """Budget and learning rate of a perturbation; zeros of what is none."""
        found = dict(re.findall(r"(lr|budget)=([0-9.e-]+)", self.method))
        return float(found.get("budget", 0)), float(found.get("lr", 0))

    @property
    def measure(self) -> str:
        """The metric, and whether the number is inferred: such a number is nobody's measurement.

        Of a perturbation it names target and epoch, too: ours may have another.

        Example:
            >>> {row.measure for row in paper_rows() if row.table in ("T7", "T7-derived")} == {
            ...     "FID", "MSE (inferred)", "SSIM (inferred)"
            ... }
            True
        """
        if self.perturbation[0]:
            told = f"MSE to {self.target.partition('(')[0]}"
            return f"{told}, {self.epochs}" if self.epochs.startswith("best") else f"{told}, epoch {self.epochs}"
        return f"{self.metric} (inferred)" if self.method.startswith("INFERRED") else self.metric

    @property
    def note(self) -> str:
        """Everything that the number depends on, in one phrase."""
        told = [
            self.dataset,
            f"{self.trigger}{f' of {self.trigger_size} px' if self.trigger_size else ''} → {self.target}",
            f"poison rate {self.poison_rate}",
            self.method,
            f"{self.epochs} epochs",
            self.sampler,
            f"clip {self.clip}",
        ]
        return ", ".join(told)


@cache
def paper_rows() -> tuple[PaperRow, ...]:
    """Every published number of the packaged table, in its order.

    Example:
        >>> row = next(row for row in paper_rows() if row.table == "T7" and row.rate == 0.05 and row.target == "Hat")
        >>> row.trigger, row.metric, row.value
        ('Grey Box', 'FID', 8.53)
    """
    text = (resources.files("baddiffusion") / "assets" / "paper" / "paper_results.csv").read_text(encoding="utf-8")
    return tuple(_row(entry) for entry in csv.DictReader(text.splitlines()))


def _row(entry: dict[str, Any]) -> PaperRow:
    values: dict[str, Any] = {**entry, "value": float(entry["value"])}
    return PaperRow(**values)
