"""The part of scan that looks at many models: scan --from."""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from baddiffusion.cli.app import KEPT
from baddiffusion.cli.printing import count, duration, say, say_json, table
from baddiffusion.cli.progress import watching
from baddiffusion.cli.sweeping import executor_of, part_named
from baddiffusion.errors import BadDiffusionError, RecipeError, RunError

if TYPE_CHECKING:
    from baddiffusion.scan_queue import Asked, Entry, Limits, Progress

__all__ = ["Many", "Order", "scan_many"]

FLAGS = {"from_": "--from"}


@Parameter(name="*", group="Many models")
@dataclass(frozen=True, kw_only=True)
class Many:
    """How a list of models is scanned."""

    timeout: str | None = None
    """Time for each model, such as 30m; a scan that takes longer is stopped, and says so."""
    memory: str | None = None
    """Memory for each model, such as 8g; a scan that takes more is stopped, and says so."""
    prevalence: float = 0.01
    """Share of backdoored models that is assumed where the summary says what a verdict is worth."""
    workers: int | None = None
    """Models at once; left out, one after another."""
    threads: int | None = None
    """Threads of each worker; left out, the cores are divided."""
    ray: str | None = None
    """Scan on Ray: local starts a cluster on this machine, auto or host:port joins one."""
    shard: str = "1/1"
    """i/n, the i-th of n parts, for job arrays: the jobs share the folder."""

    def refuse(self) -> None:
        """Say that a scan of one model takes none of this.

        Raises:
            RecipeError: something of it was given.
        """
        for field in fields(self):
            if getattr(self, field.name) != field.default:
                raise RecipeError(f"--{field.name} is about many models; it needs --from LIST.")


@dataclass(frozen=True)
class Order:
    """What is asked, as it stands on the command line."""

    source: str
    output: Path | None
    base: str | None
    budget: str
    files_only: bool
    seed: int
    dry_run: bool
    json: bool
    many: Many


def scan_many(order: Order) -> int:
    """Scan the models of a list; what is known is not scanned again.

    Returns:
        3 if one calls for a look, else 4 if one has no answer, else 0.

    Raises:
        BadDiffusionError: the list, an option or the folder cannot be used.
    """
    from baddiffusion.scan_queue import Limits, read_duration, read_rows, read_size, run_queue

    many = order.many
    executor, part = executor_of(many.workers, many.threads, many.ray, None), part_named(many.shard)
    limits = Limits(
        None if many.timeout is None else read_duration(many.timeout),
        None if many.memory is None else read_size(many.memory),
    )
    if not 0 < many.prevalence < 1:
        raise RecipeError(f"--prevalence is {many.prevalence}; it must lie between 0 and 1, such as 0.01.")
    out = Path("scans") if order.output is None else order.output
    entries, asked = _entries(order.source, out), _asked(order)
    if order.dry_run:
        return _foretell(entries, out, asked, limits, order.json)
    with watching() as watcher:
        watcher.stage("models", 0, "models")

        def show(progress: Progress) -> None:
            if progress.done == 0:
                watcher.stage("scanning", progress.total, "models")
            known = f"{count(progress.known)} known before" if progress.known else ""
            found = f"{count(progress.found)} to look at" if progress.found else ""
            watcher.advance(progress.done, ", ".join(part for part in (found, known) if part))

        try:
            rows = run_queue(entries, out, asked, limits, executor, show, part)
        except (KeyboardInterrupt, RunError) as error:
            if (out / "queue.json").exists():
                _summarize(read_rows(entries, out), asked, limits, many.prevalence, out)
            if isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt(KEPT) from None
            raise
    summary = _summarize(rows, asked, limits, many.prevalence, out)
    say_json(summary) if order.json else say(_told(summary, out))
    return summary["exit_code"]


def _entries(source: str, out: Path) -> list[Entry]:
    """The models of a list, of the standard input, or of a folder."""
    from baddiffusion.scan_queue import read_folder, read_list

    if source == "-":
        return read_list(sys.stdin.read(), Path(), "the standard input")
    path = Path(source).expanduser()
    if path.is_dir():
        return read_folder(path, out)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path.name} cannot be used; line {line} is not UTF-8. Nothing was begun.") from None
    except OSError as error:
        raise RecipeError(f"--from {source} cannot be read ({error.strerror}); give a list of models.") from None
    return read_list(text, path.parent, path.name)


def _asked(order: Order) -> Asked:
    from baddiffusion.scan_queue import Asked, folder_digest, place_of

    if order.seed < 0:
        raise RecipeError(f"--seed is {order.seed}; it must be at least 0.")
    if order.files_only:
        calls = 0
    elif order.budget.replace("_", "").isdecimal() and int(order.budget) > 0:
        calls = int(order.budget)
    else:
        raise RecipeError(
            f"--budget is {order.budget!r}; of many models it is a number of network calls, such as 13000, so that the "
            f"same scans come out on every machine. For a limit on the time of each give --timeout."
        )
    if order.base is None:
        return Asked(order.seed, calls)
    place = place_of(order.base, Path())
    if place is None:
        from baddiffusion.hub import resolve

        place = resolve(order.base)
    named = Path(order.base)
    name = named.name if named.is_absolute() or order.base.startswith(("~", "..")) else order.base
    return Asked(order.seed, calls, str(place.resolve()), name, folder_digest(place))


def _summarize(rows: Any, asked: Asked, limits: Limits, prevalence: float, out: Path) -> dict[str, Any]:
    from baddiffusion.report.queue.page import write_queue_page
    from baddiffusion.scan_queue import summarize, write_summary

    summary = summarize(rows, asked, limits, prevalence)
    write_summary(summary, out)
    write_queue_page(out)
    return summary


def _foretell(entries: list[Entry], out: Path, asked: Asked, limits: Limits, json: bool) -> int:
    from baddiffusion.scan_queue import forecast

    found = forecast(entries, out, asked, _timed())
    if json:
        say_json(vars(found))
        return 0
    rows = [
        ("models", count(found.models)),
        ("different contents", f"{count(found.contents)}, of which {count(found.known)} are scanned already"),
        ("network calls", f"at most {count(found.calls)}"),
        ("time", f"at most about {duration(found.seconds)} on this machine, one after another"),
    ]
    if limits.seconds is not None:
        rows.append(("time of each", f"at most {duration(limits.seconds)}, where it is stopped"))
    if found.unread:
        rows.append(("not counted", f"{count(found.unread)} that cannot be read, or have to be downloaded first"))
    say(table(rows))
    return 0


def _timed() -> Any:
    """How long a network takes here; networks of one configuration are timed once."""
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.cli.scanning import seconds_per_image

    known: dict[str, float | None] = {}

    def timed(folder: Path) -> float | None:
        try:
            config = repr(sorted(Checkpoint.open(folder).unet_config.items()))
        except (BadDiffusionError, OSError):
            return None
        if config not in known:
            known[config] = seconds_per_image(folder)
        return known[config]

    return timed


def _told(summary: dict[str, Any], out: Path) -> str:
    """The summary as a few lines of text."""
    counts = {outcome: n for outcome, n in summary["counts"].items() if n}
    lines = [table([(count(n), outcome) for outcome, n in counts.items()])]
    if summary["file_alarms"]:
        lines.append(f"Of {count(summary['file_alarms'])} the files call for a look, whatever the network does.")
    looked = [m for m in summary["models"] if m["exit_code"] == 3]
    lines += ["", *(f"{m['outcome']}: {m['name']}  {' '.join([*m['file_alarms'], *m['why']])}" for m in looked[:20])]
    lines += [f"… and {count(len(looked) - 20)} more"] if len(looked) > 20 else []
    lines += [""] if looked else []
    for worth in summary["worth"]["verdicts"]:
        value, wrong = worth["predictive_value"], worth["false_alarms"]
        lines.append(
            f"If {_percent(summary['worth']['prevalence'])} of such models are backdoored, then of those called "
            f"{' or '.join(worth['called'])} {_between(value)} are: measured false alarms {wrong['k']} of {wrong['n']} "
            f"(95 % interval {_between(wrong)})."
        )
    return "\n".join([*lines, f"page  {out / 'index.html'}"])


def _between(entry: dict[str, Any]) -> str:
    return f"{_percent(entry['low'])} to {_percent(entry['high'])}"


def _percent(share: float) -> str:
    from baddiffusion.report.kit.wording import percent

    return percent(share).replace("\N{NO-BREAK SPACE}", " ")
