"""The verbs of the benchmark: run it, list who competes, make attackers that evade, write the page and the records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from baddiffusion.cli.app import EXPERIMENT, Json, Switch, app
from baddiffusion.cli.forecast import here
from baddiffusion.cli.printing import count, duration, note, say, say_json, table
from baddiffusion.cli.sweeping import executor_of, part_named
from baddiffusion.errors import CheckpointError, RecipeError, RunError

if TYPE_CHECKING:
    from baddiffusion.benchmark.cells import BenchCell
    from baddiffusion.benchmark.folder import BenchDir

__all__ = ["adapt", "bench", "list_contenders", "records", "report", "run"]

Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)]
Zoos = Annotated[tuple[Path, ...], Parameter(name="--zoo", consume_multiple=True, negative="", show_default=False)]
Seeds = Annotated[tuple[int, ...], Parameter(name="--seed", consume_multiple=True, negative="")]
Folder = Annotated[Path, Parameter(name=["-o", "--output"])]
TIMED_ROWS = 16
"""Images per call when the network is timed: between those of a search and those of a batch."""

bench = App(name="bench", help="Which defense finds or removes which backdoor of the zoo, at what cost.")
bench.group = (EXPERIMENT,)
bench.sort_key = 7
app.command(bench)


@bench.default
def run(
    *,
    zoo: Zoos = (Path("zoo"),),
    output: Folder = Path("bench"),
    only: Names = (),
    model: Names = (),
    split: Literal["calibration", "test"] | None = None,
    seed: Seeds = (0,),
    short: Switch = False,
    workers: int | None = None,
    threads: int | None = None,
    ray: str | None = None,
    shard: str = "1/1",
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Run detectors and repairs over the models of a zoo: each method on each model is a cell with a file of its own.

    What is finished is not done again, so the same command goes on after a break. A method that crashes costs that cell
    alone, and is tried again the next time; the exit code is 2 then. Failed implants are left out and listed.

    Example: `baddiffusion bench --zoo zoo --short --only detectors --workers 2`

    Args:
        zoo: Folders of `zoo build`, and of `bench adapt`.
        output: Folder of the results.
        only: Methods by label, such as elijah or terd-short, or detectors, or repairs; left out, all.
        model: Models by name or by at least six digits of their digest; left out, all.
        split: Only the models of one split.
        seed: Seeds of the methods, each a cell of its own.
        short: Short budgets in place of the published ones; their results are named -short.
        workers: Cells at once, each in a process of its own; left out, one after another in this process.
        threads: Threads of each worker; left out, the cores are divided.
        ray: Run on Ray: local starts a cluster on this machine, auto or host:port joins one.
        shard: i/n, the i-th of n parts, for job arrays: the jobs share the folder.
        dry_run: Say how many cells are left and what they cost on this machine, and stop.
        json: Write the cost, or what became of the cells, as JSON.
    """
    executor, part = executor_of(workers, threads, ray, None), part_named(shard)
    from baddiffusion.benchmark.cells import plan_cells
    from baddiffusion.benchmark.contenders import select
    from baddiffusion.benchmark.measuring import Measuring
    from baddiffusion.benchmark.running import run_bench
    from baddiffusion.benchmark.subjects import Subjects
    from baddiffusion.report.bench.page import write_bench_page

    if any(one < 0 for one in seed):
        raise RecipeError(f"--seed is {min(seed)}; it must be at least 0.")
    chosen, subjects = select(only, short), Subjects.open(zoo)
    cells = plan_cells(subjects, chosen, seed, Measuring.planned(short), split, model)
    if not cells:
        raise RecipeError("no cell is left: no judged model fits --split and --model, or none of them can be repaired.")
    cost = _cost(cells, output, part)
    if dry_run:
        say_json(cost) if json else say(table(_cost_rows(cost)))
        return
    note(f"{output}: {cost['left']} of {cost['cells']} cells are left: {_cost_words(cost)}.")
    done = run_bench(cells, subjects, zoo, output, executor, _teller(cost["left"]), part, short)
    page = write_bench_page(output)
    _tell(done, cells, page, json)


@bench.command(name="list")
def list_contenders(*, json: Json = False) -> None:
    """List who competes, with budget and cost.

    Example: `baddiffusion bench list`

    Args:
        json: Write them with all settings.
    """
    from baddiffusion.benchmark.contenders import contenders
    from baddiffusion.defending import PUBLISHED_SHAPE

    every = contenders()
    if json:
        say_json([{"label": one.label, **one.to_dict(), "calls": one.method.cost(PUBLISHED_SHAPE)} for one in every])
        return
    rows = [("method", "kind", "budget", "network calls", "score")]
    for one in every:
        kind = "detector" if one.is_detector else "repair"
        calls = count(one.method.cost(PUBLISHED_SHAPE))
        rows.append((one.label, kind, one.budget, calls, ", ".join(one.score) or "–"))
    say(table(rows))


@bench.command
def adapt(
    how: Literal["averaged-in", "near-misses", "known-probes"] = "averaged-in",
    /,
    *,
    zoo: Path = Path("zoo"),
    output: Folder = Path("zoo-adaptive"),
    model: Names = (),
    share: float | None = None,
    longer: float | None = None,
    workers: int | None = None,
    threads: int | None = None,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Make models of an attacker who knows the defenses, out of the backdoored ones of a zoo; and measure the price.

    The folder opens like a zoo, and all kinds share it: `baddiffusion bench --zoo zoo zoo-adaptive`.

    Example: `baddiffusion bench adapt near-misses --zoo zoo -o zoo-adaptive`

    Args:
        how: averaged-in averages each with its clean twin. The others train it again with decoys in its recipe, which
            have to bring out ordinary pictures: near-misses of the trigger, or the known-probes of the scanner.
        zoo: Folder of a zoo.
        output: Folder for the new models; what is finished there is not done again.
        model: Models of the zoo by name or by at least six digits of their digest; left out, all.
        share: Weight of the clean twin, or share of the training images that become decoys, in (0, 1]; left out, 0.5
            and 0.2.
        longer: Times as many training steps as the model had, at least 1; left out, 1.
        workers: Trainings at once, each in a process of its own; left out, one after another in this process.
        threads: Threads of each worker; left out, the cores are divided.
        dry_run: Say how many models are left and what they cost on this machine, and stop.
        json: Write the manifest, or the cost, as JSON.
    """
    from baddiffusion.cli import adapting

    if how == "averaged-in":
        for flag, value in (("--longer", longer), ("--workers", workers), ("--threads", threads)):
            if value is not None:
                raise RecipeError(f"{flag} is for the trainings of near-misses and known-probes; leave it out.")
        adapting.average(zoo, output, model, 0.5 if share is None else share, dry_run, json)
        return
    executor = executor_of(workers, threads, None, None)
    adapting.train(adapting.Asked(how, zoo, output, model, share, longer or 1.0), executor, dry_run, json)


@bench.command
def report(folder: Path = Path("bench"), /, *, output: Annotated[Path | None, Parameter(name=["-o"])] = None) -> None:
    """Write the page of a benchmark; `bench` does it, too.

    Example: `baddiffusion bench report bench`

    Args:
        folder: Folder of a benchmark.
        output: Write the page there.
    """
    from baddiffusion.report.bench.page import write_bench_page

    say(f"page  {write_bench_page(folder, output)}")


@bench.command
def records(folder: Path = Path("bench"), /, *, output: Folder = Path("claims")) -> None:
    """Write the records of all claims, with what a benchmark has measured filled in.

    Example: `baddiffusion bench records bench -o claims`

    Args:
        folder: Folder of a benchmark.
        output: Folder for the records.
    """
    from baddiffusion.benchmark.claims import packaged_claims, with_measured, write_claims
    from baddiffusion.benchmark.folder import BenchDir

    claims = with_measured(packaged_claims(), BenchDir.read(folder))
    write_claims(claims, output)
    say(f"{sum(bool(claim.measured) for claim in claims)} of {len(claims)} claims are measured: {output}")


def _cost(cells: Sequence[BenchCell], output: Path, part: tuple[int, int]) -> dict[str, Any]:
    """What the unfinished cells of this part would take; of each kind of network that of one model is timed."""
    from baddiffusion.benchmark.running import cost, unfinished
    from baddiffusion.executors import shard

    left = shard(unfinished(cells, output), *part)
    calls = cost(left)
    each: dict[tuple[Any, ...], float] = {}
    for cell in left:
        if _network(cell) not in each and (timed := _seconds_per_image(cell)) is not None:
            each[_network(cell)] = timed
    seconds = sum(each.get(_network(cell), 0.0) * sum(cost([cell]).values()) for cell in left)
    return {
        "cells": len(cells),
        "left": len(left),
        "network_calls": sum(calls.values()),
        "by_method": calls,
        "seconds": round(seconds),
        "device": here(),
    }


def _network(cell: BenchCell) -> tuple[Any, ...]:
    truth = cell.specimen.truth
    return truth.told["network"]["preset"], truth.shape


def _seconds_per_image(cell: BenchCell) -> float | None:
    """None where the checkpoint cannot be opened: that is for its cells to tell."""
    from baddiffusion.sampling.timing import seconds_per_call

    try:
        network = cell.specimen.sealed.load_model(here())
    except CheckpointError:
        return None
    return seconds_per_call(network, cell.specimen.truth.shape, TIMED_ROWS, "auto", here()) / TIMED_ROWS


def _cost_words(cost: dict[str, Any]) -> str:
    about = duration(cost["seconds"])
    return f"{count(cost['network_calls'])} network calls, about {about} on this machine ({cost['device']})"


def _cost_rows(cost: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("cells", f"{cost['cells']}, of which {cost['left']} are left")]
    rows += [(label, f"{count(calls)} network calls") for label, calls in cost["by_method"].items()]
    return [*rows, ("in all", _cost_words(cost) + ", one cell after another")]


def _teller(total: int) -> Any:
    """A line for each cell that ended."""
    ended = 0

    def tell(what: str, cell: BenchCell, why: str) -> None:
        nonlocal ended
        if what == "running":
            return
        ended += 1
        said = [f"{ended} of {total}", cell.contender.label, cell.specimen.truth.name, f"seed {cell.seed}", what, why]
        note("  ".join(part for part in said if part))

    return tell


def _tell(done: BenchDir, cells: Sequence[BenchCell], page: Path, json: bool) -> None:
    ours = {cell.name for cell in cells}
    failed = [one for one in done.failures if one["name"] in ours]
    finished = [one for one in done.results if one["name"] in ours]
    if json:
        say_json({"folder": str(done.path), "finished": finished, "failed": failed})
    else:
        say(f"{len(finished)} of {len(ours)} cells are finished.\npage  {page}")
    if failed:
        first = failed[0]
        raise RunError(
            f"{len(failed)} of {len(ours)} cells failed, see {done.path / 'failures'}. The first is {first['label']} "
            f"on {done.record['models'][first['model']]['name']}: {first['error']}"
        )
