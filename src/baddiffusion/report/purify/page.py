"""The page of a receipt: the same noises before and after the repair, the numbers, and what it cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baddiffusion.errors import RunError
from baddiffusion.purifying import PICTURES, RECEIPT
from baddiffusion.purifying.purification import SCHEMA
from baddiffusion.report.kit.pictures import data_uri
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.wording import number
from baddiffusion.report.purify.words import (
    GUARANTEE,
    effect_lines,
    estimate_words,
    headline,
    lead,
    round_rows,
    rows_compared,
    switch_words,
)
from baddiffusion.rundir import write_atomic

__all__ = ["write_receipt_page"]

PAGE = "receipt.html"


def write_receipt_page(folder: Path, output: Path | None = None) -> Path:
    """Write ``receipt.html`` from ``receipt.json`` and the pictures beside it, and from nothing else.

    Args:
        folder: what ``baddiffusion purify`` wrote.
        output: write the page there instead.

    Returns:
        The page's path. It asks for nothing outside itself.

    Raises:
        RunError: there is no receipt, it is damaged, or the page cannot be written.
    """
    receipt = _read(folder)
    uris = {name: data_uri((folder / f"{name}.png").read_bytes()) for name in PICTURES if _has(folder, name)}
    page = output or folder / PAGE
    write_atomic(page, environment().get_template("purify.html").render(receipt=receipt, shown=_Shown(receipt, uris)))
    return page


@dataclass(frozen=True)
class _Shown:
    """What the template asks for."""

    receipt: Mapping[str, Any]
    pictures: Mapping[str, str]

    @property
    def title(self) -> str:
        """What it came to."""
        return headline(self.receipt)

    @property
    def lead(self) -> str:
        """The sentences below."""
        return lead(self.receipt)

    @property
    def guarantee(self) -> str:
        """What it is not."""
        return GUARANTEE

    @property
    def effects(self) -> list[tuple[str, str, str]]:
        """(what, before, after) as text."""
        return [(what, estimate_words(one), estimate_words(other)) for what, one, other in effect_lines(self.receipt)]

    @property
    def switches(self) -> list[str]:
        """A line each."""
        return switch_words(self.receipt)

    @property
    def compared(self) -> list[list[str]]:
        """A table with its head; empty where nothing was compared."""
        return rows_compared(self.receipt) if self.receipt["compared"] else []

    @property
    def rounds(self) -> list[list[str]]:
        """A table with its head; empty where there was but one."""
        return round_rows(self.receipt) if len(self.receipt["rounds"]) > 1 else []

    @property
    def blocks(self) -> list[tuple[str, str, float]]:
        """(block, change as text, share of the largest in percent)."""
        changed = self.receipt["changed_blocks"]
        most = max(changed.values(), default=0.0) or 1.0
        return [(block, f"{100 * moved:.2f} %", round(100 * moved / most, 1)) for block, moved in changed.items()]

    @property
    def verdicts(self) -> list[tuple[str, Mapping[str, Any]]]:
        """(when, verdict)."""
        receipt = self.receipt
        scans = [("The scan before", receipt["verdict_before"])]
        several = len(receipt["rounds"]) > 1
        for each in receipt["rounds"]:
            when = f"A fresh scan after round {each['round']}" if several else "A fresh scan after"
            scans.append((when, each["verdict_after"]))
        return scans

    @property
    def circumstances(self) -> list[tuple[str, str]]:
        """Under what it was made."""
        receipt = self.receipt
        spent = receipt["steps"][-1]["spent"]
        return [
            ("model", receipt["model"]),
            ("sha256 before", receipt["digest"]),
            ("sha256 after", receipt["repaired"]),
            ("repair", ", then ".join(step["method"] for step in receipt["steps"])),
            *((f"{step['method']}", f"{number(step['spent']['network_calls'])} network calls, "
               f"{step['spent']['seconds']:.0f} s") for step in receipt["steps"]),
            ("in all", f"{number(receipt['network_calls'])} network calls, {receipt['seconds']:.0f} s"),
            ("seed", str(receipt["seed"])),
            ("device", f"{spent['device']}, {spent['precision']}"),
        ]  # fmt: skip


def _read(folder: Path) -> Mapping[str, Any]:
    path = folder / RECEIPT
    try:
        receipt = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder} holds no {RECEIPT}; run baddiffusion purify first.") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} is damaged ({error}); purify again into another folder.") from None
    if not isinstance(receipt, dict) or receipt.get("schema") != SCHEMA:
        found = receipt.get("schema") if isinstance(receipt, dict) else None
        raise RunError(f"{path} has schema {found}; this version reads schema {SCHEMA}.")
    return receipt


def _has(folder: Path, name: str) -> bool:
    return (folder / f"{name}.png").is_file()
