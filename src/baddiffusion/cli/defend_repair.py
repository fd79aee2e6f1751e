"""A repair at work: measured before, carried out, measured after, and kept with a receipt."""

from __future__ import annotations

import json as json_text
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.forecast import empty_folder, here
from baddiffusion.cli.printing import say, say_json
from baddiffusion.cli.progress import watching

if TYPE_CHECKING:
    from baddiffusion.cli.defend_request import Request
    from baddiffusion.defending import Effect, Yardstick
    from baddiffusion.defenses import Repair

__all__ = ["mend"]

SCHEMA = 1
CHECKPOINT, RECEIPT, PAGE = "checkpoint", "receipt.json", "README.md"
SHOWN = 16


def mend(request: Request, repair: Repair) -> int:
    """Repair a model, and say what that did to it.

    Returns:
        The exit code: 0.
    """
    from baddiffusion.defending import keep

    clean, yardstick = request.clean, request.yardstick()
    data = clean.pixels if clean is not None else None
    repair.check(request.sealed, data)
    calls = {repair.label: repair.cost(request.opened.shape), "measuring": 2 * yardstick.calls(request.sealed)}
    if not request.announce(request.forecast(calls, repair.precision)):
        return 0
    empty_folder(request.output)
    with watching() as watcher:
        before = yardstick.measure(request.sealed, "before", here(), watcher)
        done = repair.repair(request.sealed, data, request.seed, device=here(), watcher=watcher)
        after = yardstick.measure(done.model, "after", here(), watcher)
    kept = keep(request.opened, done, request.output / CHECKPOINT, after.estimates)
    results = {
        "schema": SCHEMA,
        **request.named,
        "repaired": kept.digest,
        "data": clean.words if clean is not None else None,
        "measuring": _how(yardstick),
        "not_measured": request.not_measured,
        "repair": done.to_dict(),
        "before": [estimate.to_dict() for estimate in before.estimates],
        "after": [estimate.to_dict() for estimate in after.estimates],
        "measuring_calls": before.network_calls + after.network_calls,
    }
    _finish(request, results, before, after)
    return 0


def _how(yardstick: Yardstick) -> dict[str, Any]:
    return {kind: {"n": n, **settings.model_dump(mode="json")} for kind, (n, settings) in yardstick.passes.items()}


def _finish(request: Request, results: dict[str, Any], before: Effect, after: Effect) -> None:
    from baddiffusion.report.sections.defending import repair_section
    from baddiffusion.rundir import write_atomic

    output = request.output
    receipt = json_text.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    pictures = _pictures({"before": before, "after": after})
    for name, content in {RECEIPT: receipt, **pictures}.items():
        write_atomic(output / name, content)
    section = repair_section(results)
    shown = "\n\n".join(f"![{name.removesuffix('.png')}]({name})" for name in pictures)
    write_atomic(output / PAGE, f"# {results['repair']['method']}\n\n{section}\n\n{shown}".rstrip() + "\n")
    if request.json:
        say_json({"folder": str(output), **results})
    else:
        say(f"{section}\n\nin {output}: {', '.join((CHECKPOINT, RECEIPT, *pictures, PAGE))}")


def _pictures(effects: dict[str, Effect]) -> dict[str, bytes]:
    """The first samples of each kind; the same noises before and after."""
    from baddiffusion.images import grid, png_bytes, to_uint8

    drawn = {}
    for when, effect in effects.items():
        for kind, images in effect.images.items():
            if images.shape[1] in (1, 3):
                drawn[f"{kind}-{when}.png"] = png_bytes(grid(to_uint8(images[:SHOWN])))
    return drawn
