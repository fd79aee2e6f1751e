"""The verb that lets a checkpoint mend damaged pictures."""

from __future__ import annotations

import json as json_text
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.distributions import Published
from baddiffusion.cli.forecast import RESULTS, empty_folder, here, seconds_per_chunk
from baddiffusion.cli.implants import implant_of
from baddiffusion.cli.naming import component_table
from baddiffusion.cli.printing import count, duration, note, say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.data import DataSource, ImageData
    from baddiffusion.images import Images
    from baddiffusion.inpainting import Corruption, Restoration
    from baddiffusion.metrics import Perceptual
    from baddiffusion.poisoning import Implant
    from baddiffusion.sampling import SamplingSettings

__all__ = ["inpaint"]

SCHEMA = 1
FIGURE, PAGE = "inpainting.png", "README.md"
ALT = "Pictures before and after, for each corruption, without the trigger and with it"
CORRUPTIONS = ("blur", "line", "box")


@app.command(group=MEASURE, sort_key=4)
def inpaint(
    checkpoint: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["-o", "--output"])] = Path("inpainting"),
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 16,
    corruption: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="")] = CORRUPTIONS,
    sampler: str = "ddpm",
    steps: int | None = None,
    start: int | None = None,
    clip: Literal["off", "x0", "x0-keep-eps", "xt"] = "off",
    data: str | None = None,
    trigger: str | None = None,
    target: str | None = None,
    threshold: float = 0.01,
    lpips: Switch = False,
    alexnet: Path | None = None,
    alexnet_sha256: str | None = None,
    first_seed: int = 0,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Damage pictures, let a checkpoint mend them, and measure what comes back; with the trigger on them, too.

    The damaged picture takes the place of x_t in the middle of the chain; the steps before are left out. Picture i of
    the data set is seed i. The folder gets a sheet of pictures, the numbers (results.json) and a page about both.

    Example: `baddiffusion inpaint packaged:backdoored -o inpainting --n 64`

    Args:
        checkpoint: A folder, a hub name owner/name, or packaged:NAME: see `baddiffusion list models`.
        output: Folder for the results; it must be empty.
        n: How many pictures.
        corruption: blur (added noise), line, box, or blur:std=0.5; several are done one after the other.
        sampler: ddpm, ddim, dpm-solver++, or name:key=value: see `baddiffusion list samplers`.
        steps: Steps of the whole chain; left out, the sampler's own default.
        start: How many of them are left out; left out, six tenths (600 of 1000).
        clip: Clipping of the predicted image, or of x_t after every step (xt). Attacks are measured with off.
        data: Whose pictures, for example fashion-mnist or folder:path=FOLDER; left out, what the card's recipe names.
        trigger: The trigger, for example box:side_px=14, or card:number=2 for the card's second; left out, its first.
        target: What it should bring out, for example hat; left out, what the card names.
        threshold: A picture counts as the target if its mean squared error on [0, 1] is below.
        lpips: Add LPIPS, the metric of the paper's figure; needs the extra [fid] and AlexNet's weights.
        alexnet: File with these weights; left out, they are downloaded once.
        alexnet_sha256: Hash that the file must have; left out, that of the published one.
        first_seed: The first picture; the others follow it.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the results as JSON.
    """
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.hub import resolve
    from baddiffusion.inpainting import CORRUPTIONS as KNOWN
    from baddiffusion.sampling import SamplingSettings

    if not 0 < threshold < 1:
        raise RecipeError(f"--threshold is {threshold}; it must lie in (0, 1).")
    settings = SamplingSettings(sampler=component_table(sampler), num_inference_steps=steps, clip=clip)
    damages = tuple(KNOWN.parse(component_table(text)) for text in corruption)
    opened = Checkpoint.open(resolve(checkpoint))
    implant, words = implant_of(opened, trigger, target)
    work = _Work(opened, settings, damages, implant, _source(opened, data), n, first_seed, start)
    network = _perceptual(Published(lpips=lpips, alexnet=alexnet, alexnet_sha256=alexnet_sha256), work)
    model = work.announce()
    if dry_run:
        return
    empty_folder(output)
    done = work.carry_out(model)
    named = {"schema": SCHEMA, "model": Path(checkpoint).name, **words}
    _finish(output, done, named | work.results(done, threshold, network), json)


@dataclass(frozen=True)
class _Work:
    """What is asked for, checked before anything is sampled."""

    opened: Checkpoint
    settings: SamplingSettings
    damages: tuple[Corruption, ...]
    implant: Implant | None
    source: DataSource
    n: int
    first_seed: int
    asked_start: int | None

    def __post_init__(self) -> None:
        from baddiffusion.sampling import Midway

        if self.n < 1:
            raise RecipeError(f"--n is {self.n}; it must be at least 1.")
        size = len(self.pictures)
        if not 0 <= self.first_seed <= size - self.n:
            raise RecipeError(
                f"--first-seed is {self.first_seed} and --n {self.n}; {self.pictures.name} has the pictures 0 to "
                f"{size - 1}. Take fewer, or start earlier."
            )
        Midway(self.start, lambda eps, seeds: eps).enter(self._scheduler())
        for damage in self.damages:
            damage.apply(self.originals[:1], self.seeds[:1])

    def _scheduler(self) -> Any:
        return self.settings.sampler.build(self.opened.scheduler_config, self.settings.num_inference_steps)

    @cached_property
    def pictures(self) -> ImageData:
        """The data set."""
        return self.source.open(self.opened.shape)

    @cached_property
    def originals(self) -> Images:
        """The pictures that are damaged, in [−1, 1]."""
        import torch

        from baddiffusion.images import from_uint8

        return from_uint8(self.pictures.read(torch.tensor(self.seeds)))

    @property
    def seeds(self) -> range:
        """Picture i of the data set is seed i."""
        return range(self.first_seed, self.first_seed + self.n)

    @cached_property
    def start(self) -> int:
        """How many steps are left out."""
        from baddiffusion.inpainting import start_step

        return start_step(self.timesteps) if self.asked_start is None else self.asked_start

    @cached_property
    def timesteps(self) -> list[int]:
        """Of the whole chain."""
        return self._scheduler().timesteps.tolist()

    @property
    def calls(self) -> int:
        """Steps taken in a pass, chunk by chunk."""
        return (len(self.timesteps) - self.start) * -(-self.n // self.settings.chunk_size)

    @property
    def passes(self) -> list[tuple[Corruption, Implant | None]]:
        """Each corruption without the trigger, then with it."""
        kinds = [None] if self.implant is None else [None, self.implant]
        return [(damage, implant) for damage in self.damages for implant in kinds]

    def announce(self) -> torch.nn.Module:
        """Say the cost; return the network that was timed for it."""
        model, steps, passes = self.opened.load_model(here()), len(self.timesteps), len(self.passes)
        taken = steps - self.start
        seconds = seconds_per_chunk(model, self.opened, self.settings) * self.calls * passes
        note(
            f"{count(self.n * taken * passes)} network calls ({self.n} picture{'' if self.n == 1 else 's'}, "
            f"{taken} of {steps} steps, {passes} passes), about {duration(seconds)} on this machine ({here()})."
        )
        return model

    def carry_out(self, model: torch.nn.Module) -> list[Restoration]:
        """Damage and mend, pass by pass."""
        from baddiffusion.inpainting import restore

        done = []
        with watching() as watcher:
            for damage, implant in self.passes:
                title = damage.component_name + (" with trigger" if implant is not None else "")
                watcher.stage(f"mend {title}", self.calls, "steps")
                restoration = restore(
                    model,
                    self.opened.scheduler_config,
                    self.originals,
                    self.seeds,
                    damage,
                    self.settings,
                    self.start,
                    implant=implant,
                    device=here(),
                    on_progress=lambda step, total: watcher.advance(step),
                )
                done.append(restoration)
        return done

    def results(self, restorations: list[Restoration], threshold: float, network: Perceptual | None) -> dict[str, Any]:
        """What ``results.json`` holds besides the names of model and backdoor."""
        from baddiffusion.inpainting import measure

        target = self.implant.target if self.implant is not None else None
        card = self.opened.card
        trained_on = card.recipe.get("data", {}).get("name") if card is not None else None
        seen = trained_on == self.source.component_name
        caveats = ("the pictures come from the data set that the model was trained on",) if seen else ()
        pictures = f"{self.pictures.name}, {self.seeds[0]} to {self.seeds[-1]}"
        estimates = [
            estimate.to_dict()
            for done in restorations
            for estimate in measure(done, target, threshold, perceptual=network, pictures=pictures, caveats=caveats)
        ]
        return {
            "checkpoint": self.opened.digest,
            "data": {**self.source.to_dict(), "digest": self.pictures.digest},
            "corruptions": [damage.to_dict() for damage in self.damages],
            "settings": self.settings.model_dump(mode="json"),
            "start": self.start,
            "estimates": estimates,
        }


def _perceptual(asked: Published, work: _Work) -> Perceptual | None:
    """LPIPS if it was asked for, tried on one picture: what it refuses must be known before the model runs."""
    from baddiffusion.metrics import Perceptual

    if not asked.lpips:
        return None
    network = Perceptual.load(asked.alexnet, asked.alexnet_sha256, here())
    network.distances(work.originals[:1], work.originals[:1])
    return network


def _source(opened: Checkpoint, data: str | None) -> DataSource:
    from baddiffusion.data import SOURCES

    named = component_table(data) if data else opened.card.recipe.get("data") if opened.card is not None else None
    if named is None:
        raise RecipeError(
            "the checkpoint does not say what it was trained on; name pictures, for example --data fashion-mnist or "
            "--data folder:path=FOLDER."
        )
    return SOURCES.parse(named)


def _finish(output: Path, restorations: list[Restoration], results: dict[str, Any], json: bool) -> None:
    from baddiffusion.report.sections.inpainting import inpainting_section, inpainting_sheet
    from baddiffusion.rundir import write_atomic

    section = inpainting_section(results)
    write_atomic(output / RESULTS, json_text.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_atomic(output / FIGURE, inpainting_sheet(restorations))
    write_atomic(output / PAGE, f"# Inpainting\n\n![{ALT}]({FIGURE})\n\n{section}\n")
    if json:
        say_json({"folder": str(output), **results})
    else:
        say(f"{section}\n\nin {output}: {FIGURE}, {RESULTS}, {PAGE}")
