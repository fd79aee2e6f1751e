"""The index of a folder: every run, sweep, matrix and reproduction below it, with its status and main numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from baddiffusion import __version__
from baddiffusion.errors import BadDiffusionError, RunError
from baddiffusion.report.folders import Kind, folders_below, is_old, page_of, write_page
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.script import Script
from baddiffusion.report.kit.settings_words import joined
from baddiffusion.report.kit.wording import percent, target_words, trigger_words
from baddiffusion.report.reproduction.reading import experiment_files, read_experiment
from baddiffusion.report.run.reading import RunFiles
from baddiffusion.report.sweep.cells import main_numbers
from baddiffusion.report.sweep.comparison import below, read_sweep
from baddiffusion.report.sweep.findings import Findings, fired_in
from baddiffusion.report.sweep.sortable import Column, Entry, Line, Table, column_of, entry
from baddiffusion.rundir import write_atomic

__all__ = ["write_index"]

NUMBERS = ("asr", "mse", "kd_efflite0", "fid")


def write_index(root: Path, on_page: Callable[[Path], None] | None = None) -> Path:
    """Write ``index.html``: links are relative, so the whole folder can be put on any web server.

    A run, sweep, matrix or reproduction whose page is missing, or older than its record, gets it anew. What is damaged,
    or was written by another schema, is listed with its message.

    Args:
        root: the folder of the runs.
        on_page: told of every page that is written on the way.

    Raises:
        RunError: there is no such folder, nothing is in it, or the page cannot be written.
    """
    if not root.is_dir():
        raise RunError(f"{root} is not a folder; give the one that holds the runs.")
    found = [_Listed(kind, folder, root) for kind, folder in folders_below(root)]
    if not found:
        raise RunError(f"{root} holds no run, sweep, matrix, scan or reproduction; give the folder that has them.")
    for one in found:
        one.write_page(on_page)
    page = root / "index.html"
    shown = _Shown(root, found)
    write_atomic(page, environment().get_template("index.html").render(shown=shown, version=__version__))
    return page


@dataclass
class _Listed:
    """One line of the index."""

    kind: Kind
    folder: Path
    root: Path
    trouble: str = ""

    @property
    def name(self) -> str:
        """From where the index stands."""
        return self.folder.relative_to(self.root).as_posix()

    def write_page(self, on_page: Callable[[Path], None] | None) -> None:
        """Write the page if it is missing or old; whatever is wrong with the folder is kept to be told."""
        try:
            self.status, self.line  # noqa: B018 - what cannot be read is found here
            if is_old(self.folder):
                page = write_page(self.folder)
                if on_page is not None:
                    on_page(page)
        except (BadDiffusionError, KeyError, TypeError, ValueError) as error:
            said = str(error) if isinstance(error, BadDiffusionError) else f"damaged: {type(error).__name__} {error}"
            self.trouble = said.replace(f"{self.root}/", "")

    @property
    def link(self) -> str:
        """To its page; empty where there is none."""
        page = page_of(self.folder)
        return quote(page.relative_to(self.root).as_posix()) if page.exists() and not self.trouble else ""

    @cached_property
    def files(self) -> RunFiles:
        """Of a run."""
        return RunFiles(self.folder)

    @cached_property
    def status(self) -> str:
        """In a word, or in numbers."""
        if self.kind == "run":
            return str(self.files.record.get("status", "unknown"))
        if self.kind == "sweep":
            comparison = read_sweep(self.folder)
            return f"{len(comparison.done)} of {len(comparison.cells)} runs done"
        if self.kind == "matrix":
            cells = self._json("matrix.json")["cells"]
            return f"{sum(cell['status'] == 'done' for cell in cells)} of {len(cells)} cells done"
        if self.kind == "scan":
            return str(self._json("scan.json")["verdict"]["outcome"])
        rows = [row for experiment in self.experiments for row in experiment.rows]
        return f"{sum(bool(row.numbers) for row in rows)} of {len(rows)} rows measured"

    @cached_property
    def experiments(self) -> list[Any]:
        """Of a reproduction."""
        return [read_experiment(path, self.folder.parent) for path in experiment_files(self.folder)]

    @cached_property
    def line(self) -> str:
        """What came out, in one line."""
        if self.kind == "run":
            first, numbers = self.files.backdoors[0], main_numbers(self.files)
            words = f"{trigger_words(first['trigger'])} → {target_words(first['target'])}"
            return f"{words}: fired in {fired_in(numbers['asr'])}" if "asr" in numbers else words
        if self.kind == "sweep":
            comparison = read_sweep(self.folder)
            return Findings(comparison.rows, comparison.varied).title
        if self.kind == "matrix":
            summary = self._json("matrix.json")
            return f"{len(summary['rows'])} backdoors under {len(summary['columns'])} sampler settings"
        if self.kind == "scan":
            record = self._json("scan.json")
            return f"{record['name']}: {' '.join(record['verdict']['reasons'])}"
        return joined([experiment.title for experiment in self.experiments])

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.folder / name).read_text())
        except (OSError, ValueError) as error:
            raise RunError(f"{self.folder / name} is damaged ({error}); give its command again.") from None


@dataclass
class _Shown:
    """What the template asks for."""

    root: Path
    entries: list[_Listed]

    @cached_property
    def script(self) -> Script:
        """What sorts the table of runs."""
        return Script()

    @property
    def title(self) -> str:
        """How much there is."""
        kinds: tuple[tuple[Kind, str], ...] = (
            ("reproduction", "reproductions"),
            ("sweep", "sweeps"),
            ("matrix", "matrices"),
            ("scan", "scans"),
            ("run", "runs"),
        )
        readable = [entry.kind for entry in self.entries if not entry.trouble]
        counts = [(readable.count(one), one, many) for one, many in kinds]
        said = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
        return joined([*said, *([f"{len(self.damaged)} not readable"] if self.damaged else [])])

    @property
    def damaged(self) -> list[_Listed]:
        """What cannot be shown."""
        return [entry for entry in self.entries if entry.trouble]

    @property
    def collections(self) -> list[_Listed]:
        """Everything but runs."""
        order = ("reproduction", "sweep", "matrix", "scan")
        return sorted((e for e in self.entries if e.kind != "run" and not e.trouble), key=lambda e: order.index(e.kind))

    @cached_property
    def runs(self) -> Table | None:
        """Every run that can be read, with its main numbers."""
        entries = [entry for entry in self.entries if entry.kind == "run" and not entry.trouble]
        numbers = [main_numbers(entry.files) for entry in entries]
        shown = [name for name in NUMBERS if any(name in found for found in numbers)]
        columns = (
            Column("Run"),
            Column("What"),
            Column("Poison rate", "", True),
            *(column_of(name) for name in shown),
            Column("Status"),
        )
        lines = []
        for one, found in zip(entries, numbers, strict=True):
            first = one.files.backdoors[0]
            what = f"{trigger_words(first['trigger'])} → {target_words(first['target'])}"
            rate = sum(backdoor["rate"] for backdoor in one.files.backdoors)
            texts = Entry(one.name, one.name), Entry(what, what), Entry(percent(rate), rate)
            values = (entry(found.get(name)) for name in shown)
            lines.append(Line(one.status, (*texts, *values, Entry(one.status, one.status)), one.link))
        return Table(columns, tuple(lines)) if lines else None

    @property
    def page_command(self) -> str:
        """What writes this page again."""
        return f"baddiffusion report --index {below(self.root, 1)}"
