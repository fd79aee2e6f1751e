"""The verb that repairs a model on what a scan finds in it: purify."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.defend_request import Measuring, Request, method_fields
from baddiffusion.cli.printing import say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.errors import CheckpointError, RecipeError

if TYPE_CHECKING:
    from baddiffusion.purifying import Orders, Purification, PurifySettings, TrueTrigger

__all__ = ["purify"]

Settings = Annotated[tuple[str, ...], Parameter(name="--set", consume_multiple=1, negative="", show_default=False)]
SCORE_STEPS = 250
TEXT, PAGE = "receipt.txt", "receipt.html"


@app.command(group=MEASURE, sort_key=7)
def purify(
    checkpoint: str,
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    scan: Path | None = None,
    sibling: str | None = None,
    anyway: Switch = False,
    compare: Switch = False,
    data: str | None = None,
    data_share: float = 0.1,
    true_trigger: Switch = False,
    n: int = 64,
    budget: int = 13_000,
    rounds: int = 2,
    set_: Settings = (),
    seed: int = 0,
    dry_run: Switch = False,
    json: Json = False,
) -> int:
    """Repair a model on what a scan finds in it, and leave a receipt.

    Needs no data and knows no attack. It scans the model; tries what costs nothing (clipping, noising a start noise
    again); averages with a clean sibling, if you have one; and then teaches the network, on pictures that it paints
    itself, to take a shift of its start noise for noise. Where a scan with another seed finds something in what came
    out, it repairs once more on that, and keeps the better round. The receipt says how often the recovered trigger
    fired before and after, how far ordinary pictures have moved, which weights changed, and what every scan found.

    OUT is a plain diffusers folder with a card that names its parent, the receipt (receipt.html, .json, .txt) beside
    it. Where the scan finds no evidence nothing is done, unless --anyway is given. It is a repair, not a guarantee.

    Exit codes: 0 it no longer fires, or there was nothing to repair; 3 it still fires, or is still suspicious; 4 the
    scan gives no answer.

    Example: `baddiffusion purify packaged:backdoored -o repaired`, `baddiffusion purify MODEL --scan scan-MODEL
    --compare -o repaired`

    Args:
        checkpoint: A folder, a hub name owner/name, or packaged:NAME.
        output: The folder to write, which must not exist; left out, purified-NAME.
        scan: What `baddiffusion scan` left about the same weights; left out, the model is scanned first.
        sibling: A clean checkpoint of the same lineage, to average with before the repair.
        anyway: Repair a model in which the scan found nothing, against shifts that look like pictures.
        compare: Also carry out clean fine-tuning and Elijah's removal, at as many network calls, for a table.
        data: Real pictures, for quality and for the repairs compared with: fashion-mnist, or a folder.
        data_share: Which part of them the repairs compared with get, in (0, 1]; quality is measured against the others.
        true_trigger: Also measure the trigger that the card names; only the receipt sees it.
        n: Fresh noises for each success rate.
        budget: Network calls at most, of each scan.
        rounds: Repairs at most, each with a fresh scan: another follows where that scan finds something.
        set_: Settings of the repair, key=value; for example steps=400.
        seed: Decides everything random.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the receipt as JSON.
    """
    from baddiffusion.purifying import PurifySettings, forecast, read_suspicion

    if seed < 0:
        raise RecipeError(f"--seed is {seed}; it must be at least 0.")
    request = Request.open(checkpoint, data, data_share, seed, Measuring(n=n), output or Path(), dry_run, json)
    folder = output or Path(f"purified-{_plain(checkpoint)}")
    if os.path.lexists(folder) and not dry_run:
        raise CheckpointError(f"{folder} exists; nothing is overwritten. Choose another folder with -o.")
    score = _true_trigger(request) if true_trigger else None
    size = PurifySettings(n=n, budget=budget, rounds=rounds)
    orders = _orders(request, scan, sibling, anyway, compare, score, size, set_)
    known = read_suspicion(scan) if scan is not None else None
    if not request.announce(request.forecast(forecast(request.sealed, orders, known))):
        return 0
    return _carry_out(request, orders, folder)


def _orders(
    request: Request,
    scan: Path | None,
    sibling: str | None,
    anyway: bool,
    compare: bool,
    score: TrueTrigger | None,
    settings: PurifySettings,
    changes: Settings,
) -> Orders:
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.defenses import ShiftEquivariance
    from baddiffusion.hub import resolve
    from baddiffusion.purifying import Orders

    clean = request.clean
    return Orders(
        scan=scan,
        sibling=Checkpoint.open(resolve(sibling)).sealed() if sibling is not None else None,
        pictures=clean.pixels if clean is not None else None,
        real=request.reference[0] if clean is not None else None,
        anyway=anyway,
        compare=compare,
        score=score,
        repair=ShiftEquivariance(**method_fields(changes)),
        settings=settings,
        seed=request.seed,
    )


def _true_trigger(request: Request) -> TrueTrigger:
    """How the trigger that the card names is measured: by the attack's sampler, in fewer steps if it is ancestral."""
    from baddiffusion.purifying import TrueTrigger
    from baddiffusion.sampling import SamplingSettings

    asked = request.yardstick()
    if asked.implant is None:
        raise RecipeError(
            f"--true-trigger measures what the card names, and that of {request.model} names none; leave it out."
        )
    how = asked.attacked
    if how.sampler.component_name == "ddpm":
        steps = min(SCORE_STEPS, len(request.opened.schedule.betas))
        how = SamplingSettings(sampler=how.sampler, num_inference_steps=steps)
    return TrueTrigger(asked.implant, how, asked.n, asked.ordinary, asked.quality_n, None)


def _carry_out(request: Request, orders: Orders, folder: Path) -> int:
    from baddiffusion.cli.forecast import here
    from baddiffusion.purifying import keep_purified, purify, staged
    from baddiffusion.report.purify.page import write_receipt_page
    from baddiffusion.report.purify.words import receipt_text
    from baddiffusion.rundir import write_atomic

    with staged(folder, request.opened.path) as temporary:
        with watching() as watcher:
            done = purify(request.opened.path, orders, device=here(), watcher=watcher)
        if done.model is not None:
            keep_purified(request.opened, done, temporary)
            write_atomic(temporary / TEXT, receipt_text(done.to_dict()) + "\n")
            write_receipt_page(temporary)
    _tell(request, done, folder)
    return done.exit_code


def _tell(request: Request, done: Purification, folder: Path) -> None:
    from baddiffusion.report.purify.words import receipt_text

    receipt, written = done.to_dict(), done.model is not None
    if request.json:
        say_json({"folder": str(folder) if written else None, **receipt})
        return
    say(receipt_text(receipt))
    say(f"model  {folder}\npage   {folder / PAGE}" if written else "Nothing was written.")


def _plain(checkpoint: str) -> str:
    """A folder's name out of a model's."""
    return re.sub(r"[^\w.-]+", "-", Path(checkpoint).name.removeprefix("packaged:")).strip("-.") or "model"
