"""The verb that measures models under many samplers: matrix."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.naming import component_table
from baddiffusion.cli.printing import count, duration, note, say, say_json, table
from baddiffusion.cli.progress import watching

if TYPE_CHECKING:
    from baddiffusion.matrix import Matrix
    from baddiffusion.report.matrix.heat import Square

__all__ = ["matrix", "named_columns"]


@app.command(group=MEASURE, sort_key=4)
def matrix(
    checkpoints: Annotated[tuple[str, ...], Parameter(negative="")],
    /,
    *,
    output: Annotated[Path, Parameter(name=["-o", "--output"])] = Path("matrix"),
    samplers: str = "ddpm:1000,ddim:50,dpm-solver++:20",
    clips: str = "off,x0,x0-keep-eps",
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 64,
    quality: str = "",
    quality_clips: str = "off",
    quality_n: int = 256,
    trigger: str | None = None,
    target: str | None = None,
    attack: str | None = None,
    data: str | None = None,
    threshold: float = 0.01,
    chunk_size: int = 32,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Measure backdoors under many samplers, steps and ways of clipping.

    Each cell is one model under one sampler: success rate, squared error and similarity of triggered pictures, with
    intervals. Trigger, target and attack come from the model card; a card with two backdoors makes two rows. What a
    sampler refuses is recorded with its reason. Cells are written once, so the same command goes on after a
    break, and with more samplers or models it adds to the folder. It ends with matrix.html: heat maps of what was
    measured, beside what the algebra predicts.

    Example: `baddiffusion matrix packaged:backdoored --samplers ddpm:250,ddim:20,ddim:50 --clips off,x0 -o matrix`

    Args:
        checkpoints: Folders of runs or checkpoints, hub names owner/name, or packaged:NAME.
        output: Folder for the cells and the page.
        samplers: Columns, name:steps with commas between; fields of a sampler stand before its steps, as in
            ddim:eta=0.5:50. Without steps the sampler's own default.
        clips: Ways of clipping, with commas between: off, x0, x0-keep-eps (the predicted image), xt (x_t, every step).
        n: Triggered pictures per cell, at least 64.
        quality: Columns for which the quality of ordinary pictures is measured, too; empty for none.
        quality_clips: Ways of clipping for the quality, with commas between.
        quality_n: Ordinary pictures per quality number, at least 256.
        trigger: Use this trigger, for example box:side_px=14; left out, the card's.
        target: Use this target; left out, the card's.
        attack: Use this attack's start noise and sampler; left out, the card's.
        data: Real pictures for the quality, for example fashion-mnist; left out, those that the card names.
        threshold: A picture counts as the target if its mean squared error on [0, 1] is below.
        chunk_size: Pictures per network call.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the whole summary as JSON.
    """
    plan = {
        "columns": named_columns(samplers),
        "clips": _parts(clips, ","),
        "n": n,
        "quality": named_columns(quality),
        "quality_clips": _parts(quality_clips, ","),
        "quality_n": quality_n,
        "threshold": threshold,
        "chunk_size": chunk_size,
    }
    named = {"trigger": trigger, "target": target, "attack": attack, "data": data}
    overrides = {key: component_table(text) for key, text in named.items() if text is not None}
    _carry_out(plan, checkpoints, overrides, output, dry_run, json)


def named_columns(text: str) -> list[dict[str, Any]]:
    """Read ``name:steps,name:key=value:steps`` as columns of a plan.

    Example:
        >>> named_columns("ddpm:250,ddim:eta=0.5:50")[1]
        {'sampler': {'name': 'ddim', 'eta': 0.5}, 'steps': 50}
    """
    columns = []
    for entry in _parts(text, ","):
        name, *parts = _parts(entry, ":")
        steps = int(parts.pop()) if parts and re.fullmatch(r"\d+", parts[-1]) else None
        fields = ",".join(parts)
        columns.append({"sampler": component_table(f"{name}:{fields}" if fields else name), "steps": steps})
    return columns


def _carry_out(
    plan: dict[str, Any],
    checkpoints: tuple[str, ...],
    overrides: dict[str, Any],
    output: Path,
    dry_run: bool,
    json: bool,
) -> None:
    from baddiffusion.matrix import Matrix, MatrixPlan, open_subjects, write_summary

    work = Matrix(MatrixPlan(**plan), open_subjects(checkpoints, overrides), output)
    cost = work.cost()
    if dry_run:
        say_json(cost) if json else say(table(_cost_rows(cost)))
        return
    if cost["missing"]:
        note(f"{output}: {_cost_words(cost)}.")
    with watching() as watcher:
        work.fill(watcher)
    _tell(work, write_summary(work), json)


def _parts(text: str, mark: str) -> list[str]:
    return [part.strip() for part in text.split(mark) if part.strip()]


def _cost_rows(cost: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("cells", f"{cost['cells']}, of which {cost['missing']} are not filled yet"),
        ("refused", f"{cost['refused']} of these cannot be sampled"),
        ("sampling", f"{count(cost['network_calls'])} network calls"),
        ("time", f"about {duration(cost['seconds'])} on this machine ({cost['device']})"),
    ]


def _cost_words(cost: dict[str, Any]) -> str:
    return (
        f"{cost['missing']} of {cost['cells']} cells to fill, {count(cost['network_calls'])} network calls, about "
        f"{duration(cost['seconds'])} on this machine ({cost['device']})"
    )


def _tell(work: Matrix, path: Path, json: bool) -> None:
    from baddiffusion.matrix import summarize
    from baddiffusion.report.matrix.page import write_matrix_page

    page, summary = write_matrix_page(work.folder), summarize(work)
    if json:
        say_json({"summary": str(path), "report": str(page), **summary})
        return
    say(table(_rate_rows(summary)))
    say(f"page  {page}")


def _rate_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """A line per model, backdoor and clip, a column per sampler: measured rate, and in brackets what was predicted."""
    from baddiffusion.report.matrix.heat import bias_grid, success_grid

    measured, predicted = success_grid(summary), bias_grid(summary)
    labels = [column["label"] for column in summary["columns"]]
    rows: list[tuple[str, ...]] = [("success rate in % (predicted bias)", *labels)]
    for band, expected in zip(measured.bands, predicted.bands, strict=True):
        rows.append((f"{band.title}, {band.words}",))
        for (clip, squares), (_, biases) in zip(band.rows, expected.rows, strict=True):
            rows.append((f"  {clip}", *(_told(square, bias) for square, bias in zip(squares, biases, strict=True))))
    return rows


def _told(square: Square, bias: Square) -> str:
    return square.mark or f"{square.text} ({bias.text})"
