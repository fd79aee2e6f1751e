"""The index of a folder: every run below it, and everything else that has a page, with status and main numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from baddiffusion import __version__
from baddiffusion.errors import BadDiffusionError, RunError
from baddiffusion.report.folders import KINDS, Kind, folders_below, is_old, page_of, write_page
from baddiffusion.report.index_lines import told
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.script import Script
from baddiffusion.report.kit.settings_words import joined
from baddiffusion.report.kit.wording import percent, target_words, trigger_words
from baddiffusion.report.run.reading import RunFiles
from baddiffusion.report.sweep.cells import main_numbers
from baddiffusion.report.sweep.comparison import below
from baddiffusion.report.sweep.sortable import Column, Entry, Line, Table, column_of, entry
from baddiffusion.rundir import write_atomic

__all__ = ["write_index"]

NUMBERS = ("asr", "mse", "kd_efflite0", "fid")


def write_index(root: Path, on_page: Callable[[Path], None] | None = None) -> Path:
    """Write ``index.html``: links are relative, so the whole folder can be put on any web server.

    Where a page is missing, or older than its record, it is written anew. What is damaged, or was written by another
    schema, is listed with its message.

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
        names = ", ".join(kind.name for kind in KINDS)
        raise RunError(f"{root} holds nothing that has a page ({names}); give the folder that has them.")
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
            self._told  # noqa: B018 - what cannot be read is found here
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

    @property
    def status(self) -> str:
        """In a word, or in numbers."""
        return self._told[0]

    @property
    def line(self) -> str:
        """What came out, in one line."""
        return self._told[1]

    @cached_property
    def _told(self) -> tuple[str, str]:
        return told(self.kind, self.folder)


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
        readable = [entry.kind for entry in self.entries if not entry.trouble]
        counts = [(readable.count(kind), kind) for kind in reversed(KINDS)]
        said = [f"{count} {kind.name if count == 1 else kind.plural}" for count, kind in counts if count]
        return joined([*said, *([f"{len(self.damaged)} not readable"] if self.damaged else [])])

    @property
    def damaged(self) -> list[_Listed]:
        """What cannot be shown."""
        return [entry for entry in self.entries if entry.trouble]

    @property
    def collections(self) -> list[_Listed]:
        """Everything but runs."""
        shown = [entry for entry in self.entries if entry.kind.name != "run" and not entry.trouble]
        return sorted(shown, key=lambda entry: -KINDS.index(entry.kind))

    @cached_property
    def runs(self) -> Table | None:
        """Every run that can be read, with its main numbers."""
        entries = [entry for entry in self.entries if entry.kind.name == "run" and not entry.trouble]
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
