"""The verb that shows the point in minutes: demo. Implant, sample, measure, and scan the result as a stranger would."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from baddiffusion.cli.app import EXPERIMENT, Json, Switch, app
from baddiffusion.cli.printing import say
from baddiffusion.cli.progress import watching
from baddiffusion.cli.running import Runs, carry_out, load, tell
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    from baddiffusion.report.scan.reading import ScanFiles

__all__ = ["demo"]

FULL = ("sampling.num_inference_steps=1000", "sampling.n=128")


@app.command(group=EXPERIMENT, sort_key=1)
def demo(
    *,
    full: Switch = False,
    purify: Switch = False,
    runs: Runs = Path("runs"),
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Implant a backdoor into the packaged model, watch it work, and find it again.

    10 to 15 minutes on two cores, offline; it ends with a page of pictures and numbers. They are what was measured,
    also where the backdoor did not fire. The scan at the end knows the weights alone: neither trigger nor target.

    Example: `baddiffusion demo`

    Args:
        full: All 1000 sampling steps and 128 noises, in place of 250 and 32.
        purify: Repair the model afterwards, on what the scan found, and measure it again: some minutes more. However it
            ends, the demo has done what it is for: the receipt says how.
        runs: Folder for the run's own folder.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the results as JSON.
    """
    if purify and json:
        raise RecipeError("--purify leaves a receipt of its own; take --json without it, then `baddiffusion purify`.")
    finished = carry_out(load("demo", FULL if full else ()), runs, "evaluate", dry_run, json)
    if finished is None:
        return
    from baddiffusion.report.scan.words import headline

    scan = _scanned(finished.path)
    page = scan.path.parent / "report.html"
    tell(finished, json, {"scan": {"verdict": scan.record["verdict"], "report": str(page)}})
    if not json:
        say(f"\nThe scan, which saw the weights alone: {headline(scan.record)}")
        say(f"page  {page}")
    if purify:
        _repair(finished.path)


def _repair(run: Path) -> None:
    """Repair the run's model into its ``repaired/``, unless that is done."""
    from baddiffusion.cli.purifying import purify
    from baddiffusion.report.run.scanned import SCAN

    folder = run / "repaired"
    say()
    if folder.exists():
        say(f"The repaired model is there already.\npage  {folder / 'receipt.html'}")
        return
    purify(str(run / "checkpoint"), output=folder, scan=run / SCAN, true_trigger=True)


def _scanned(run: Path) -> ScanFiles:
    """Scan the run's checkpoint into the run's ``scan/``, unless that is done."""
    from baddiffusion.report.run.scanned import SCAN, scan_of
    from baddiffusion.report.scan.page import write_scan_page
    from baddiffusion.report.scan.reading import ScanFiles
    from baddiffusion.scanner import BUDGET, scan
    from baddiffusion.scanner.evidence import Request, write_evidence

    folder, checkpoint = run / SCAN, run / "checkpoint"
    if scan_of(run) is None:
        with watching() as watcher:
            report = scan(checkpoint, budget=BUDGET, watcher=watcher)
        subject = checkpoint.name if checkpoint.is_absolute() else str(checkpoint)
        write_evidence(report, Request(subject, 0, BUDGET), folder)
    write_scan_page(folder)
    return ScanFiles(folder)
