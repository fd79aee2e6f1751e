"""The verb that shows one thing: a component, a recipe, a checkpoint, a run, or the gallery of triggers and targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from baddiffusion.cli.app import LOOK, Json, app
from baddiffusion.cli.printing import count, say, say_json, table
from baddiffusion.errors import RecipeError, UnknownComponent, nearest

__all__ = ["show"]


@app.command(group=LOOK, sort_key=2)
def show(
    name: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["-o", "--output"])] = Path("gallery.png"),
    resolution: int = 32,
    channels: int = 3,
    json: Json = False,
) -> None:
    """Show what something is: a component, recipe, checkpoint or run.

    With the name gallery it draws every trigger and target on one labelled sheet. A component's name wins over a folder
    of the same name; write ./NAME for the folder.

    Example: `baddiffusion show box`, `baddiffusion show packaged:clean`, `baddiffusion show gallery -o gallery.png`

    Args:
        name: A name from `baddiffusion list`, a recipe file, a checkpoint (folder or hub name), a run; or gallery.
        output: Where the gallery goes.
        resolution: Side of the gallery's images in pixels.
        channels: 1 for grey, 3 for color.
        json: Write it as JSON.
    """
    if name == "gallery":
        _gallery(output, resolution, channels)
        return
    value, text = _found(name)
    say_json(value) if json else say(text)


def _found(name: str) -> tuple[Any, str]:
    from baddiffusion.cli.components import component_entries, component_text

    if entries := component_entries(name):
        return entries if len(entries) > 1 else entries[0], "\n\n\n".join(component_text(entry) for entry in entries)
    if name in _networks():
        return _network(name)
    path = Path(name)
    if (path / "run.json").is_file():
        return _run(path)
    if name in _recipes() or path.is_file():
        return _recipe(name)
    if path.exists() or "/" in name or name.startswith("packaged:"):
        return _checkpoint(name)
    known = ["gallery", *_component_names(), *_networks(), *_recipes()]
    raise UnknownComponent(
        f"nothing is called {name!r}, and there is no such file or folder. {nearest(name, known)}See: baddiffusion list"
    )


def _component_names() -> list[str]:
    from baddiffusion.cli.components import registries

    return [name for registry in registries().values() for name in (*registry, *map(str.upper, registry.aliases))]


def _networks() -> dict[str, Any]:
    from baddiffusion.models import PRESETS

    return PRESETS


def _recipes() -> dict[str, Path]:
    from baddiffusion.recipe import packaged_recipes

    return packaged_recipes()


def _network(name: str) -> tuple[dict[str, Any], str]:
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in _networks()[name].items()}
    rows = [(key, str(value)) for key, value in config.items()]
    return {"kind": "network", "name": name, "config": config}, f"network {name}\n\n{table(rows, indent='  ')}"


def _recipe(name: str) -> tuple[dict[str, Any], str]:
    from baddiffusion.recipe import Recipe

    recipe = Recipe.load(name)
    value = {"kind": "recipe", "digest": recipe.digest, "recipe": recipe.to_dict()}
    return value, f"# digest {recipe.digest}; every default is written out\n{recipe.to_toml()}".rstrip()


def _checkpoint(name: str) -> tuple[dict[str, Any], str]:
    import math

    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.hub import resolve

    opened = Checkpoint.open(resolve(name))
    betas, card = opened.schedule.betas, opened.card
    parameters = sum(math.prod(shape) for shape in opened.weights.shapes.values())
    value = {
        "kind": "checkpoint",
        "path": str(opened.path),
        "digest": opened.digest,
        "shape": list(opened.shape),
        "parameters": parameters,
        "prediction_type": opened.prediction_type,
        "schedule": {"steps": len(betas), "beta_first": float(betas[0]), "beta_last": float(betas[-1])},
        "not_loaded": list(opened.not_loaded),
        "card": card.model_dump(mode="json") if card is not None else None,
    }
    schedule = f"{len(betas)} steps, beta {float(betas[0]):g} to {float(betas[-1]):g}"
    rows = [
        ("checkpoint", value["path"]),
        ("digest", opened.digest),
        ("images", "×".join(map(str, opened.shape)) + " (channels, height, width)"),
        ("parameters", count(parameters)),
        ("predicts", opened.prediction_type),
        ("schedule", schedule),
        ("not loaded", ", ".join(opened.not_loaded) or "nothing was left out"),
        ("card", card.headline if card is not None else "none: it does not say what it is"),
    ]
    return value, table(rows)


def _run(path: Path) -> tuple[dict[str, Any], str]:
    from baddiffusion.cli.results import results_table, summary
    from baddiffusion.report.run.reading import RunFiles

    files = RunFiles(path)
    record, results = files.record, files.results
    value = {"kind": "run", "path": str(path), "run": record, "results": results}
    rows = [("run", str(path)), ("status", record.get("status", "unknown"))]
    rows += [("error", record["error"])] if record.get("error") else []
    stages = sorted(record["stages"].items(), key=lambda stage: stage[1]["finished"])
    rows += [(stage, f"done in {entry['elapsed_s']} s") for stage, entry in stages]
    text = table(rows)
    if results is not None:
        text += f"\n\n{results_table(results['estimates'])}\n\n{summary(files)}"
    return value, text


def _gallery(output: Path, resolution: int, channels: int) -> None:
    from baddiffusion.cli.gallery import draw_gallery
    from baddiffusion.rundir import write_atomic

    if channels not in (1, 3):
        raise RecipeError(f"--channels is {channels}; it must be 1 (grey) or 3 (color).")
    if not 8 <= resolution <= 1024:
        raise RecipeError(f"--resolution is {resolution}; it must lie in [8, 1024].")
    write_atomic(output, draw_gallery(resolution, channels))
    say(f"gallery of triggers and targets at {resolution}×{resolution}: {output}")
