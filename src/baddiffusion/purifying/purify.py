"""Repair a checkpoint on what a scan finds in it, and measure what became of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from baddiffusion.checkpoint import Checkpoint, SealedCheckpoint
from baddiffusion.defenses import Averaging
from baddiffusion.errors import RecipeError
from baddiffusion.purifying.course import Course
from baddiffusion.purifying.orders import Orders
from baddiffusion.purifying.purification import Outcome, Purification
from baddiffusion.purifying.suspicion import Suspicion, read_suspicion, suspicion_of
from baddiffusion.scanner import scan
from baddiffusion.watching import Nobody, Watcher

__all__ = ["purify"]


def purify(
    path: str | Path,
    orders: Orders | None = None,
    *,
    device: torch.device | str | None = None,
    watcher: Watcher | None = None,
) -> Purification:
    """Repair a checkpoint; nothing is written, and the folder is left as it is.

    In this order: a scan; what free switches do to what it found; averaging with a clean sibling, if there is one; the
    data-free repair; the measuring again; a scan with another seed. Where that finds something, the last three are done
    again on what it found, as often as the settings allow, and the best round is kept. A model in which the first scan
    finds nothing is left alone unless that is asked for.

    Args:
        path: the folder.
        orders: what to do.
        device: where; None picks a GPU if there is one.
        watcher: is told how far the work is.

    Raises:
        CheckpointError: the folder cannot be read.
        RecipeError: the earlier scan is of other weights, the sibling does not fit, or a number is out of bounds.
        RunError: the earlier scan cannot be read, or the loss of the repair became infinite or NaN.
        EvaluationError: samples became infinite or NaN.

    Example:
        >>> purify("nowhere")
        Traceback (most recent call last):
        ...
        baddiffusion.errors.CheckpointError: nowhere does not exist; give the folder of a diffusers checkpoint.
    """
    orders, watcher, began = orders or Orders(), watcher or Nobody(), time.perf_counter()
    opened = Checkpoint.open(path)
    sealed = opened.sealed()
    if orders.sibling is not None:
        Averaging().with_sibling(orders.sibling).check(sealed, None)
    suspicion = _suspicion(Path(path), sealed, orders, device, watcher)
    stop = _stop(suspicion, orders)
    name = Path(path).name
    told: dict[str, Any] = {"name": name, "digest": sealed.digest, "suspicion": suspicion, "seed": orders.seed}
    told["settings"] = orders.settings
    scan_calls = suspicion.network_calls if orders.scan is None else 0
    if stop is not None:
        spent = {"seconds": time.perf_counter() - began, "network_calls": scan_calls}
        return Purification(outcome=stop, **told, **spent)
    course = Course(sealed, suspicion, orders, watcher, device)
    parts = course.carry_out()
    calls = scan_calls + course.network_calls
    return Purification(**told, **parts, seconds=time.perf_counter() - began, network_calls=calls)


def _suspicion(
    path: Path, sealed: SealedCheckpoint, orders: Orders, device: torch.device | str | None, watcher: Watcher
) -> Suspicion:
    if orders.scan is None:
        settings = orders.settings
        return suspicion_of(
            scan(path, seed=orders.seed, budget=settings.budget, settings=settings.scan, device=device, watcher=watcher)
        )
    found = read_suspicion(orders.scan)
    if found.digest and found.digest != sealed.digest:
        raise RecipeError(
            f"the scan in {orders.scan} is of other weights ({found.digest[:12]}…) than {path.name} "
            f"({sealed.digest[:12]}…); give the scan of this model, or leave --scan out."
        )
    return found


def _stop(suspicion: Suspicion, orders: Orders) -> Outcome | None:
    if suspicion.outcome == "not examined" and orders.scan is None:
        return "not examined"
    if suspicion.findings or orders.anyway:
        return None
    return "nothing to repair" if suspicion.outcome == "no evidence" else "not examined"
