"""Verbs that measure and report: evaluate, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.costs import announce_rest
from baddiffusion.cli.distributions import Published, clean_sets, note_caveats
from baddiffusion.cli.naming import component_table
from baddiffusion.cli.printing import note, say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.cli.reading import read_pictures
from baddiffusion.cli.results import results_table, summary, the_results
from baddiffusion.errors import RecipeError, RunError

if TYPE_CHECKING:
    from baddiffusion.metrics import Estimate
    from baddiffusion.recipe import Recipe

__all__ = ["evaluate", "report"]

MADE_FROM_TRIGGER = ("noshift", "shift")


@app.command(group=MEASURE, sort_key=2)
def evaluate(
    run: Path | None = None,
    /,
    *,
    images: Path | None = None,
    target: str | None = None,
    trigger: str | None = None,
    threshold: float | None = None,
    fid: Switch = False,
    reference: str | None = None,
    inception: Path | None = None,
    inception_sha256: str | None = None,
    lpips: Switch = False,
    alexnet: Path | None = None,
    alexnet_sha256: str | None = None,
    json: Json = False,
) -> None:
    """Measure a run, or pictures made elsewhere, against a target.

    Of a run it checks that nothing was changed since, does what is missing, and shows the numbers with interval and n;
    its recipe names target, trigger and threshold. The flags for these go with --images.

    --fid and --lpips need pip install 'baddiffusion[fid]' and weights that others publish.

    Example: `baddiffusion evaluate runs/demo-1a2b3c4d`, `baddiffusion evaluate --images samples --target hat`,
    `baddiffusion evaluate --images samples --fid --reference cifar10:split=train`

    Args:
        run: The folder of a run.
        images: A folder of pictures, or an .npz file with one uint8 array.
        target: What the pictures are compared with, for example hat or image:path=cat.png.
        trigger: Of which trigger the targets noshift and shift are made, for example box:side_px=14.
        threshold: A picture counts as the target if its mean squared error on [0, 1] is below; left out, 0.01.
        fid: Compare with real pictures as papers do: FID, Inception score, KID, precision and recall. Of a run the
            numbers are kept in its folder, those of each reference in a file of their own, and the report shows them.
        reference: These real pictures: a folder, or a data set, for example cifar10:split=train; of a run, by default
            its training data.
        inception: The file of Inception's weights; left out, it is looked for in torch's cache and downloaded.
        inception_sha256: The hash that this file must have, where it is not the published one.
        lpips: Compare with the target as people see it (with --images).
        alexnet: The file of AlexNet's weights, which LPIPS needs; left out, as for Inception.
        alexnet_sha256: The hash that this file must have, where it is not the published one.
        json: Write the numbers as JSON.
    """
    published = Published(fid, reference, inception, inception_sha256, lpips, alexnet, alexnet_sha256)
    if (run is None) == (images is None):
        raise RecipeError("evaluate needs either the folder of a run, or --images with --target; give one of the two.")
    if images is not None:
        _evaluate_pictures(images, target, trigger, threshold, published, json)
    elif run is not None:
        _refuse_flags(target=target, trigger=trigger, threshold=threshold)
        if published.lpips:
            raise RecipeError("--lpips goes with --images and --target; leave it out, or give a folder of pictures.")
        _evaluate_run(run, published, json)


@app.command(group=MEASURE, sort_key=3)
def report(
    folders: Annotated[tuple[Path, ...], Parameter(negative="")] = (),
    /,
    *,
    output: Annotated[Path | None, Parameter(name=["-o", "--output"])] = None,
    index: Annotated[Path | None, Parameter(name="--index")] = None,
) -> None:
    """Write a self-contained page: of a run, sweep, reproduction or scan; of several runs side by side; or an index.

    One folder gets report.html inside it, whatever it is; a matrix matrix.html. Several runs get comparison.html beside
    the first: a table that sorts, bars and curves, the same noises side by side. --index writes index.html into a
    folder of runs, with a link to each page; missing and outdated pages are written on the way.

    Example: `baddiffusion report runs/demo-1a2b3c4d`, `baddiffusion report runs/one-1a2b3c4d runs/two-5e6f7a8b`,
    `baddiffusion report --index runs`

    Args:
        folders: A run, sweep, matrix, scan, queue of scans, repair, benchmark or reproduction; or several runs.
        output: Write the page there.
        index: The folder of all runs; goes alone.
    """
    from baddiffusion.report import write_comparison_page, write_index, write_page

    if (index is None) == (not folders) or (index is not None and output is not None):
        raise RecipeError(
            "report needs the folder of a run or sweep, or several runs, with -o FILE or without; or --index FOLDER "
            "alone. Give one of these."
        )
    if index is not None:
        say(f"page  {write_index(index, lambda page: note(f'written: {page}'))}")
    elif len(folders) == 1:
        say(f"page  {write_page(folders[0], output)}")
    else:
        say(f"page  {write_comparison_page(list(folders), output)}")


def _refuse_flags(**flags: str | float | None) -> None:
    """A flag that changed nothing would leave numbers that are not what was asked for."""
    given = [f"--{name}" for name, value in flags.items() if value is not None]
    if given:
        raise RecipeError(
            f"{' and '.join(given)} cannot be given with the folder of a run, whose recipe names target, trigger and "
            f"threshold. Leave it out, or start a run with another recipe: baddiffusion run RECIPE --set "
            f"evaluation.asr_threshold=0.02"
        )


def _evaluate_run(path: Path, published: Published, json: bool) -> None:
    from baddiffusion.pipeline import run_recipe
    from baddiffusion.recipe import Recipe
    from baddiffusion.report.run.reading import RunFiles

    found, before = path.resolve(), RunFiles(path)
    try:
        recipe = Recipe(**before.recipe)
    except RecipeError as error:
        file = path / "recipe.toml"
        raise RunError(f"{file} is not a recipe of this version: {error} Start the run again.") from None
    if found.name != f"{recipe.name}-{recipe.digest}":
        raise RunError(
            f"{path} holds the recipe of {recipe.name}-{recipe.digest}: the folder was renamed, or the recipe edited. "
            f"Give the folder its name back."
        )
    if "evaluate" not in before.record["stages"]:
        announce_rest(recipe, path)
    with watching() as watcher:
        run_recipe(recipe, path.resolve().parent, watcher)
    files = RunFiles(path)
    results = the_results(files)
    compared, kept = _compared(path, published, recipe) if published.fid else ([], None)
    if json:
        added = {"reference_estimates": [estimate.to_dict() for estimate in compared]} if compared else {}
        say_json({"run": str(path), **results, **added})
    else:
        say(f"{results_table(results['estimates'])}\n\n{summary(files)}")
        if compared:
            say(f"\n{results_table([estimate.to_dict() for estimate in compared])}")
        note_caveats(compared)
    if kept is not None:
        note(f"kept in {kept}, and shown by: baddiffusion report {path}")


def _compared(path: Path, published: Published, recipe: Recipe) -> tuple[list[Estimate], Path]:
    """Measure a run against real pictures, and keep what came out beside its other numbers."""
    from baddiffusion.comparisons import keep_comparison

    started = time.perf_counter()
    found = published.compare(clean_sets(path), recipe.data)
    return found, keep_comparison(path, found, time.perf_counter() - started)


def _evaluate_pictures(
    path: Path, target: str | None, trigger: str | None, threshold: float | None, published: Published, json: bool
) -> None:
    from baddiffusion.data import ResidentImages
    from baddiffusion.evaluation import evaluate_images
    from baddiffusion.metrics import THRESHOLD

    aimed = target is not None or trigger is not None or threshold is not None or published.lpips
    if target is None and (aimed or not published.fid):
        raise RecipeError("--images needs --target, what the pictures are compared with; for example --target hat.")
    threshold = THRESHOLD if threshold is None else threshold
    if not 0 < threshold < 1:
        raise RecipeError(f"--threshold is {threshold}; it must lie in (0, 1).")
    pixels, protocol = read_pictures(path)
    _, channels, height, width = pixels.shape
    found = []
    if target is not None:
        drawn = _drawn_target(target, trigger, (channels, height, width))
        found += evaluate_images(pixels, drawn, threshold, protocol)
        found += published.resemble(pixels, drawn, protocol) if published.lpips else []
    if published.fid:
        found += published.compare([(ResidentImages(path.name, pixels), protocol)], None)
    estimates = [estimate.to_dict() for estimate in found]
    if json:
        say_json({"images": str(path), "n": len(pixels), "estimates": estimates})
        return
    say(results_table(estimates, f"{path} against {target or published.reference}"))
    note_caveats([estimate for estimate in found if "implementation" in estimate.protocol])


def _drawn_target(target: str, trigger: str | None, shape: tuple[int, int, int]) -> Any:
    from baddiffusion.targets import TARGETS
    from baddiffusion.triggers import Trigger

    design = TARGETS.parse(component_table(target))
    if trigger is None and design.component_name in MADE_FROM_TRIGGER:
        raise RecipeError(
            f"target {design.component_name} is made from the trigger; name it, for example --trigger box:side_px=14."
        )
    return design.draw(Trigger.make(component_table(trigger or "none"), shape))
