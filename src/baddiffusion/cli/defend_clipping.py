"""Clipping at work: a table of what each way and range of it does to a backdoor."""

from __future__ import annotations

import json as json_text
import math
from typing import TYPE_CHECKING

from baddiffusion.cli.forecast import RESULTS, empty_folder, here
from baddiffusion.cli.printing import say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    from baddiffusion.cli.defend_request import Request
    from baddiffusion.defending import ClipRow

__all__ = ["clipping", "ranges_of"]

SCHEMA = 1
SHEET, PAGE = "clipping.png", "README.md"
SHOWN = 8


def clipping(request: Request, clips: str, ranges: str) -> int:
    """Measure the backdoor under each way of clipping.

    Returns:
        The exit code: 0.
    """
    from baddiffusion.defending import clip_rows, clip_ways, clip_yardsticks

    kinds = [part.strip() for part in clips.split(",") if part.strip()]
    if not kinds:
        raise RecipeError("--clips names none; name some with commas between, for example off,x0,x0-keep-eps,xt.")
    yardsticks = clip_yardsticks(request.yardstick(), clip_ways(kinds, ranges_of(ranges)))
    calls = sum(yardstick.calls(request.sealed) for yardstick in yardsticks)
    if not request.announce(request.forecast({"sampling": calls})):
        return 0
    empty_folder(request.output)
    with watching() as watcher:
        rows = clip_rows(request.sealed, yardsticks, here(), watcher)
    _finish(request, rows)
    return 0


def ranges_of(text: str) -> list[float]:
    """Read ranges with commas between.

    Raises:
        RecipeError: one is not a number more than 0, or there is none.

    Example:
        >>> ranges_of("1, 1.5")
        [1.0, 1.5]
    """
    ranges = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise RecipeError(f"--ranges has {part.strip()!r}; write numbers more than 0, for example 1,1.5,2.")
        ranges.append(value)
    return ranges


def _finish(request: Request, rows: list[ClipRow]) -> None:
    from baddiffusion.images import grid, png_bytes, to_uint8
    from baddiffusion.report.sections.defending import clipping_section
    from baddiffusion.rundir import write_atomic

    results = {
        "schema": SCHEMA,
        **request.named,
        "not_measured": request.not_measured,
        "rows": [row.to_dict() for row in rows],
    }
    output, files = request.output, {}
    files[RESULTS] = json_text.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if request.opened.shape[0] in (1, 3):
        import torch

        shown = torch.cat([row.images[:SHOWN] for row in rows])
        files[SHEET] = png_bytes(grid(to_uint8(shown), columns=min(SHOWN, len(rows[0].images))))
    for name, content in files.items():
        write_atomic(output / name, content)
    section = clipping_section(results)
    shown = f"\n\n![A row of triggered pictures for each line of the table]({SHEET})" if SHEET in files else ""
    write_atomic(output / PAGE, f"# Clipping\n\n{section}{shown}\n")
    if request.json:
        say_json({"folder": str(output), **results})
    else:
        say(f"{section}\n\nin {output}: {', '.join((*files, PAGE))}")
