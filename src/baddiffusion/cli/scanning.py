"""The verb that looks for a backdoor in a model: scan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.forecast import empty_folder, here
from baddiffusion.cli.printing import count, duration, note, say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.cli.scan_aids import Aids
from baddiffusion.cli.scan_queueing import Many, Order, scan_many
from baddiffusion.errors import BadDiffusionError, RecipeError

if TYPE_CHECKING:
    from baddiffusion.scanner import ScanReport
    from baddiffusion.scanner.evidence import Request

__all__ = ["read_budget", "scan", "seconds_per_image"]

UNITS = {"s": 1, "m": 60, "h": 3600}
REST = "Anything that is not named above: other marks, other samplers, other numbers of steps."
TIMED_ROWS = 8
"""Images per call when the network is timed: most calls of a scan have as many."""


@app.command(group=MEASURE, sort_key=6)
def scan(
    checkpoint: str | None = None,
    /,
    *,
    from_: Annotated[str | None, Parameter(name="--from", allow_leading_hyphen=True)] = None,
    output: Annotated[Path | None, Parameter(name=["-o", "--output", "--out"])] = None,
    base: str | None = None,
    budget: str = "13000",
    files_only: Switch = False,
    seed: int = 0,
    dry_run: Switch = False,
    json: Json = False,
    sarif: Switch = False,
    aids: Aids = Aids(),  # noqa: B008 - frozen
    many: Many = Many(),  # noqa: B008 - frozen
) -> int:
    """Look for a backdoor in a model of unknown origin.

    First its files, of which nothing is run; then how it behaves: what makes it forget its noise and paint one and the
    same picture. Needs no data and knows no attack. The answer is one of: backdoored, suspicious, no evidence,
    inconclusive, not examined; with the evidence, and with what was not searched. The folder gets a page to look at
    (report.html), the numbers (scan.json) and the noises that fire (evidence.safetensors).

    With --from a list of models is scanned into one folder, each in a process of its own; what is scanned already is
    not scanned again, whatever it is called now, so the same command goes on after a break.

    Exit codes: 0 no evidence, 3 backdoored, suspicious or an alarm of the files (of any model), 4 no answer.

    Example: `baddiffusion scan packaged:backdoored`, `baddiffusion scan google/ddpm-cifar10-32 --budget 5m -o scan`,
    `baddiffusion scan --from models.txt --out scans/ --timeout 30m --memory 8g --workers 4`

    Args:
        checkpoint: A folder, a hub name owner/name, or packaged:NAME.
        from_: A file with one model a line (# begins a comment), - for the standard input, or a folder of checkpoints.
        output: Folder for the results, which must be empty; left out, scan-NAME, and with --json or --sarif none. Of
            --from the folder may hold earlier results; left out, scans.
        base: What the model was made from, named alike; weights and scheduler are compared with it.
        budget: Network calls at most, or a time such as 300s or 5m, which is turned into calls once, by timing the
            network; the calls are recorded and give the same scan again.
        files_only: Look at the files alone.
        seed: Decides everything random.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the report as JSON.
        sarif: Write the findings as SARIF, for code-scanning pages.
    """
    if from_ is not None:
        if checkpoint is not None or sarif:
            raise RecipeError(f"--from takes a list, and no {'--sarif' if sarif else 'further model'} beside it.")
        aids.refuse()
        return scan_many(Order(from_, output, base, budget, files_only, seed, dry_run, json, many))
    many.refuse()
    if checkpoint is None:
        raise RecipeError("there is no model to scan; name one, or give a list with --from.")
    return _scan_one(checkpoint, output, base, budget, files_only, seed, dry_run, json, sarif, aids)


def _scan_one(
    checkpoint: str,
    output: Path | None,
    base: str | None,
    budget: str,
    files_only: bool,
    seed: int,
    dry_run: bool,
    json: bool,
    sarif: bool,
    aids: Aids,
) -> int:
    from baddiffusion.hub import resolve
    from baddiffusion.scanner import scan as scan_folder
    from baddiffusion.scanner.evidence import Request, as_json
    from baddiffusion.scanner.verdict_sarif import report_sarif

    if json and sarif:
        raise RecipeError("--json and --sarif both ask for standard output; give one, and -o FOLDER for the rest.")
    if seed < 0:
        raise RecipeError(f"--seed is {seed}; it must be at least 0.")
    amount, unit = read_budget(budget)
    folder, against = resolve(checkpoint), resolve(base) if base is not None else None
    if not folder.is_dir():
        raise RecipeError(f"{checkpoint} is a file; give the folder of a checkpoint.")
    subject, compared = _named(checkpoint), _named(base) if base is not None else ""
    further = aids.options()
    calls, per_call = (0, None) if files_only else _calls(folder, amount, unit, aids)
    asked = budget if per_call is not None else ""
    beside = tuple(_named(name) for name in aids.siblings or ())
    request = Request(subject, seed, calls, compared, asked, per_call, beside, aids.method or "", aids.calls)
    if dry_run:
        return 0
    if output is None and not (json or sarif):
        output = Path(f"scan-{_plain(_named(checkpoint))}")
    if output is not None:
        empty_folder(output)
    with watching() as watcher:
        report = scan_folder(folder, base=against, seed=seed, budget=calls, watcher=watcher, **further)
    if output is not None:
        _leave(report, request, output, sarif)
    if json or sarif:
        say_json(as_json(report, request) if json else report_sarif(report))
    else:
        say(_told(report, request, output))
    return report.exit_code


def read_budget(text: str) -> tuple[float, str]:
    """Read a number of network calls, or a time.

    Args:
        text: ``13000``, ``300s``, ``5m`` or ``1h``.

    Returns:
        The number, and ``calls`` or ``s``.

    Raises:
        RecipeError: it is neither.

    Example:
        >>> read_budget("13000"), read_budget("5m")
        ((13000.0, 'calls'), (300.0, 's'))
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip().replace("_", ""))
    if match is None or float(match[1]) <= 0 or (not match[2] and "." in match[1]):
        raise RecipeError(
            f"--budget is {text!r}; give a number of network calls, such as 13000, or a time, such as 300s or 5m. "
            f"For the files alone give --files-only."
        )
    return (float(match[1]) * UNITS[match[2]], "s") if match[2] else (float(match[1]), "calls")


def _calls(folder: Path, amount: float, unit: str, aids: Aids) -> tuple[int, float | None]:
    """How many network calls a budget is, and, of a time, what a call takes; the cost is said."""
    from baddiffusion.scanner import BUDGET

    each = seconds_per_image(folder)
    if each is None:
        note("0 network calls: the network cannot be loaded; the files alone.")
        return int(amount) if unit == "calls" else BUDGET, None
    calls = int(amount) if unit == "calls" else max(int(amount / each), 1)
    note(f"At most {count(calls)} network calls, about {duration(calls * each)} on this machine ({here()}).")
    aids.tell_cost(calls, each)
    return calls, round(each, 9) if unit == "s" else None


def seconds_per_image(folder: Path) -> float | None:
    """What a network call takes here; None where the network cannot be called."""
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.sampling.timing import seconds_per_call

    try:
        opened = Checkpoint.open(folder)
        model = opened.load_model(here())
    except (BadDiffusionError, OSError):
        return None
    return seconds_per_call(model, opened.shape, TIMED_ROWS, "auto", here()) / TIMED_ROWS


def _named(checkpoint: str) -> str:
    """The name without the place on this machine."""
    path = Path(checkpoint)
    return path.name if path.is_absolute() or checkpoint.startswith(("~", "..")) else checkpoint


def _plain(name: str) -> str:
    """A folder's name out of a model's."""
    return re.sub(r"[^\w.-]+", "-", name.removeprefix("packaged:")).strip("-.") or "model"


def _leave(report: ScanReport, request: Request, folder: Path, sarif: bool) -> None:
    from baddiffusion.report.scan.page import write_scan_page
    from baddiffusion.scanner.evidence import write_evidence

    write_evidence(report, request, folder, sarif)
    write_scan_page(folder)


def _told(report: ScanReport, request: Request, folder: Path | None) -> str:
    """The scan as a few lines of text."""
    from baddiffusion.report.scan.words import p_value_words
    from baddiffusion.scan_rates import of_outcome, rate_words

    verdict, dynamic, files = report.verdict, report.dynamic, report.files
    lines = [f"{verdict.outcome}: {request.subject}", *(f"  {reason}" for reason in verdict.reasons)]
    if verdict.p_value is not None and dynamic is not None and report.exit_code:
        lines.append(f"  {p_value_words(verdict.p_value, len(dynamic.confirmations))}")
    if dynamic is not None and dynamic.siblings is not None:
        lines.append(f"  {dynamic.siblings.words}")
    measured = of_outcome(verdict.outcome)
    lines += [f"  {rate_words(measured)}"] if measured is not None else []
    found = [f"  {f.severity} {f.rule} {f.message}" for f in files.findings]
    missing = [f"  {item.what}: {item.why}" for item in files.not_examined]
    loaded = [f"  not loaded: {', '.join(files.not_loaded)}"] if files.not_loaded else []
    parts = {
        f"files: {len(files.alarms) or 'no'} alarm{'' if len(files.alarms) == 1 else 's'}": [*found, *loaded],
        "searched": [f"  {line}" for line in (dynamic.searched if dynamic else ())],
        "not searched": [*(f"  {line}" for line in (dynamic.not_searched if dynamic else ())), *missing, f"  {REST}"],
        "what to do": [f"  {line}" for line in verdict.advice],
    }
    for title, part in parts.items():
        lines += ["", title, *part] if part or title.startswith("files") else []
    calls = dynamic.spent.network_calls if dynamic else 0
    lines += ["", f"{count(calls)} network calls, {duration(report.seconds)}. Again: {request.command}"]
    lines += [f"page  {folder / 'report.html'}"] if folder is not None else []
    return "\n".join(lines)
