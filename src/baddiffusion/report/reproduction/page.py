"""The page of a reproduction: an experiment per section, the paper's numbers beside ours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from baddiffusion import __version__
from baddiffusion.errors import RunError
from baddiffusion.report.kit.downloads import Download, csv_download
from baddiffusion.report.kit.rendering import environment
from baddiffusion.report.kit.script import Script
from baddiffusion.report.kit.settings_words import joined, key_words, settings_words, value_words
from baddiffusion.report.reproduction.reading import Experiment, experiment_files, read_experiment
from baddiffusion.report.reproduction.table import reproduction_csv, reproduction_table
from baddiffusion.report.sweep.comparison import below
from baddiffusion.report.sweep.drawings import Drawing, drawings
from baddiffusion.report.sweep.findings import Findings
from baddiffusion.report.sweep.sortable import Table
from baddiffusion.report.sweep.strips import Strip, strips
from baddiffusion.rundir import write_atomic

__all__ = ["write_reproduction_page"]

ABSENT = (("cell failed", "whose run failed"), ("not run", "not run"))
NBSP = "\N{NO-BREAK SPACE}"
NAMED = 4
"""Tables and figures that a title can hold."""


def write_reproduction_page(folder: Path, output: Path | None = None) -> Path:
    """Write ``report.html`` into a reproduction's folder, from its files and those of the runs that they name.

    Args:
        folder: what ``baddiffusion reproduce`` filled; the run directories stand beside it.
        output: write the page there.

    Returns:
        The page's path. It asks for nothing outside itself.

    Raises:
        RunError: there is no experiment, or the page cannot be written.
    """
    sections: list[Section] = []
    damaged: list[str] = []
    for path in experiment_files(folder):
        try:
            sections.append(Section(read_experiment(path, folder.parent)))
        except RunError as error:
            damaged.append(str(error))
    if not sections and not damaged:
        raise RunError(f"{folder} holds no experiment; give a folder that `baddiffusion reproduce` filled.")
    page = output or folder / "report.html"
    shown = _Shown(folder, sections, damaged)
    write_atomic(page, environment().get_template("reproduction.html").render(shown=shown, version=__version__))
    return page


def failed_implants(count: int) -> str:
    """So many of them."""
    return f"{count} failed implant{'' if count == 1 else 's'}"


@dataclass
class Section:
    """One experiment."""

    experiment: Experiment

    @property
    def key(self) -> str:
        """For ids: letters and digits."""
        return "".join(character if character.isalnum() else "-" for character in self.experiment.name)

    @cached_property
    def findings(self) -> Findings:
        """What came out."""
        return Findings(self.experiment.rows, self.experiment.varied)

    @property
    def answer(self) -> str:
        """What came out, in one sentence."""
        return self.findings.title if self.findings.attacked else ""

    @property
    def counted(self) -> str:
        """How many rows are in which state, and what all have in common."""
        total, count = len(self.experiment.rows), self.experiment.counted
        measured = count("measured") + count("control") + count("failed implant")
        said = [f"{measured} of {total} rows are measured"]
        said += [f"{failed_implants(count('failed implant'))} among them"] if count("failed implant") else []
        said += [f"{count(state)} {words}" for state, words in ABSENT if count(state)]
        shared = ", ".join(f"{key_words(k).lower()} {value_words(k, v)}" for k, v in self.experiment.shared.items())
        return f"{', '.join(said)}.{f' In all rows: {shared}.' if shared else ''}"

    @property
    def missing(self) -> list[tuple[str, str, list[str]]]:
        """(how many rows, what runs them, which) of the rows without numbers."""
        return [
            (f"{len(rows)} {'row' if len(rows) == 1 else 'rows'}", command, [settings_words(r.settings) for r in rows])
            for command, rows in self.experiment.commands.items()
        ]

    @cached_property
    def table(self) -> Table:
        """The paper's numbers beside ours."""
        return reproduction_table(self.experiment)

    @cached_property
    def drawings(self) -> list[tuple[str, Drawing]]:
        """The paper's figures beside ours, each said whose it is, then what only we have."""
        varied, key = self.experiment.varied, self.key
        paper = drawings(self.experiment.paper_rows, varied, f"{key}-paper")
        ours = drawings(self.experiment.rows, varied, key)
        told = [("the paper", one) for one in paper] + [("measured here", one) for one in ours]
        titles = [one.title for one in paper]
        return sorted(told, key=lambda pair: titles.index(pair[1].title) if pair[1].title in titles else len(titles))

    @cached_property
    def strips(self) -> list[Strip]:
        """Samples of the rows whose numbers were measured on a run's own."""
        return strips([row for row in self.experiment.rows if row.cells])

    @property
    def downloads(self) -> list[Download]:
        """The table, and every figure."""
        table = csv_download(self.key, "The table, unrounded (CSV)", reproduction_csv(self.experiment))
        return [table, *(drawing.download for _, drawing in self.drawings)]


@dataclass
class _Shown:
    """What the template asks for."""

    folder: Path
    sections: list[Section]
    damaged: list[str]

    @cached_property
    def script(self) -> Script:
        """What sorts the tables."""
        return Script()

    @property
    def presets(self) -> list[str]:
        """Usually one."""
        return list(dict.fromkeys(section.experiment.preset for section in self.sections))

    @property
    def title(self) -> str:
        """How much of the paper is here."""
        found = list(dict.fromkeys(part for section in self.sections for part in section.experiment.paper))
        if not self.sections:
            return "No experiment can be read."
        if 0 < len(found) <= NAMED:
            return f"The paper’s {joined([part.replace(' ', NBSP) for part in found])}, measured again"
        return f"{len(self.sections)} experiments of the paper, measured again"

    @property
    def lead(self) -> str:
        """In numbers."""
        rows = [row for section in self.sections for row in section.experiment.rows]
        measured = [row for row in rows if row.numbers]
        failed = sum(row.state == "failed implant" for row in rows)
        which = f"{failed_implants(failed)} among them" if failed else "no failed implant among them"
        return f"Preset {joined(self.presets)}: {len(measured)} of {len(rows)} rows are measured, {which}."

    @property
    def page_command(self) -> str:
        """What writes this page again."""
        return f"baddiffusion report {below(self.folder, 2)}"
