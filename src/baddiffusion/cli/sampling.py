"""The verb that samples a checkpoint into a folder of pictures."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.forecast import here, seconds_per_chunk
from baddiffusion.cli.implants import asked_trigger, told_of
from baddiffusion.cli.naming import component_table
from baddiffusion.cli.pictures import PictureFolder
from baddiffusion.cli.printing import count, duration, note, say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from baddiffusion.attacks import View
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.images import Images
    from baddiffusion.sampling import SamplingSettings

__all__ = ["sample"]


@app.command(group=MEASURE, sort_key=1)
def sample(
    checkpoint: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["-o", "--output"])] = Path("samples"),
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 16,
    sampler: str = "ddpm",
    steps: int | None = None,
    clip: Literal["off", "x0", "x0-keep-eps", "xt"] = "off",
    clip_range: float = 1.0,
    trigger: str | None = None,
    first_seed: int = 0,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Sample a checkpoint into a folder of PNG files, one per seed.

    Any unconditional diffusers DDPM checkpoint will do. Beside the pictures lie a sheet of them (grid.png) and an index
    of how they were made. The picture of a seed does not depend on how many are asked for: the same command with a
    larger --n adds to the folder. Other settings need another folder.

    Example: `baddiffusion sample packaged:backdoored -o triggered --n 64 --trigger card`

    Args:
        checkpoint: A folder, a hub name owner/name, or packaged:NAME: see `baddiffusion list models`.
        output: Folder for the pictures: 000041.png is seed 41.
        n: How many pictures.
        sampler: ddpm, ddim, dpm-solver++, or name:key=value: see `baddiffusion list samplers`.
        steps: Sampling steps; left out, the sampler's own default.
        clip: Clipping of the predicted image, or of x_t after every step (xt). Attacks are measured with off.
        clip_range: The largest magnitude that clipping leaves to a pixel; pictures live in [−1, 1].
        trigger: Add this trigger to the start noise, for example box:side_px=8; card takes the one that the
            checkpoint's card names, card:number=2 that of its second backdoor. Left out, the noise is clean. How it is
            added, and whether the sampler is the attack's own, is told by the attack on the card; without one it is
            BadDiffusion's way.
        first_seed: The first seed; the others follow it.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the folder's index as JSON.
    """
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.hub import resolve
    from baddiffusion.sampling import SamplingSettings
    from baddiffusion.sampling.viewed import check_viewable

    if n < 1:
        raise RecipeError(f"--n is {n}; it must be at least 1.")
    if first_seed < 0:
        raise RecipeError(f"--first-seed is {first_seed}; it must be at least 0.")
    settings = SamplingSettings(
        sampler=component_table(sampler), num_inference_steps=steps, clip=clip, clip_range=clip_range
    )
    opened = Checkpoint.open(resolve(checkpoint))
    if opened.shape[0] not in (1, 3):
        raise RecipeError(f"{checkpoint} has images of {opened.shape[0]} channels; only 1 or 3 make a picture.")
    start, view, start_words = _start_noise(opened, trigger)
    if view is not None:
        check_viewable(settings, opened.scheduler_config)
    folder = PictureFolder(output, _identity(opened, settings, start_words), opened.shape)
    missing = folder.missing(range(first_seed, first_seed + n))
    if missing:
        _fill(folder, opened, settings, start, view, missing, dry_run)
    if dry_run:
        say(f"{output}: {n - len(missing)} of {n} pictures are there already.")
        return
    index = folder.finish()
    if json:
        say_json({"folder": str(output), **index})
    else:
        say(f"{_made(n, first_seed)}, in {output}; together in {output / 'grid.png'}")


def _made(n: int, first_seed: int) -> str:
    return f"1 picture, seed {first_seed}" if n == 1 else f"{n} pictures, seeds {first_seed} to {first_seed + n - 1}"


def _start_noise(
    opened: Checkpoint, trigger: str | None
) -> tuple[Callable[[Images], Images] | None, View | None, dict[str, Any]]:
    """The map from noise to x_T, the view of an attack with its own sampler, and what the index says about them."""
    from baddiffusion.attacks import ATTACKS

    design = asked_trigger(opened.card, trigger)
    if design is None:
        return None, None, {"trigger": None, "attack": None}
    drawn = design.draw(opened.shape)
    attack = ATTACKS.parse(told_of(opened.card, design)["attack"])
    words = {"trigger": design.to_dict(), "attack": attack.to_dict()}
    return (lambda eps: attack.initial_noise(eps, drawn)), attack.view(drawn), words


def _identity(opened: Checkpoint, settings: SamplingSettings, start: dict[str, Any]) -> dict[str, Any]:
    """Everything that decides the pictures besides their seeds: what two calls must share to share a folder."""
    import torch

    from baddiffusion.sampling.record import record_of

    scheduler = settings.sampler.build(opened.scheduler_config, settings.num_inference_steps)
    record = record_of(scheduler, opened.scheduler_config, settings, (), torch.device(here())).to_dict()
    for of_one_call in ("count", "padding", "seeds_digest"):
        del record[of_one_call]
    return {"checkpoint": opened.digest, **start, "settings": settings.model_dump(mode="json"), "record": record}


def _fill(
    folder: PictureFolder,
    opened: Checkpoint,
    settings: SamplingSettings,
    start: Callable[[Images], Images] | None,
    view: View | None,
    seeds: list[int],
    dry_run: bool,
) -> None:
    from baddiffusion import sampling
    from baddiffusion.sampling.viewed import sample_through

    draw = sampling.sample if view is None else partial(sample_through, view)
    device = here()
    model = opened.load_model(device)
    steps, calls = (folder.identity["record"][key] for key in ("num_inference_steps", "network_calls"))
    seconds = seconds_per_chunk(model, opened, settings)
    chunks = -(-len(seeds) // settings.chunk_size)
    note(
        f"{count(len(seeds) * calls)} network calls ({len(seeds)} images, {steps} steps), about "
        f"{duration(seconds * calls * chunks)} on this machine ({device})."
    )
    if dry_run:
        return
    folder.begin()
    with watching() as watcher:
        watcher.stage(f"sample {settings.sampler.component_name}", len(seeds), "images")
        for first in range(0, len(seeds), settings.chunk_size):
            chunk = seeds[first : first + settings.chunk_size]

            def progress(done: int, total: int, first: int = first, size: int = len(chunk)) -> None:
                watcher.advance(first + done * size // total)

            folder.add(
                chunk,
                draw(
                    model,
                    opened.scheduler_config,
                    opened.shape,
                    chunk,
                    settings,
                    initial_noise=start,
                    device=device,
                    on_progress=progress,
                ).pixels,
            )
