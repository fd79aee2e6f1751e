"""The verb that watches a checkpoint's chains from inside, with and without clipping."""

from __future__ import annotations

import json as json_text
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from baddiffusion.cli.app import MEASURE, Json, Switch, app
from baddiffusion.cli.forecast import RESULTS, empty_folder, here, seconds_per_chunk
from baddiffusion.cli.implants import implant_of
from baddiffusion.cli.naming import component_table
from baddiffusion.cli.printing import count, duration, note, say, say_json
from baddiffusion.cli.progress import watching
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    import torch

    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.poisoning import Implant
    from baddiffusion.sampling import SamplingSettings
    from baddiffusion.trajectory import BiasCurve, Trajectory

__all__ = ["trajectory"]

SCHEMA = 1
FRAMES, BIAS, PAGE = "latents.png", "bias.png", "README.md"
DEFINITION = "(x_t − signal_t·y − shift_t·r) / noise_t"
ALTS = (
    "x_t and predicted x_0 along the chain of seed {seed}",
    "Mean implied noise along the chain, network and theory",
)
THEORY_N = 32
"""Chains of the perfect denoiser at most: it has no network to run, but its pictures may be large."""
KEPT_POINTS = 250


@app.command(group=MEASURE, sort_key=5)
def trajectory(
    checkpoint: str,
    /,
    *,
    output: Annotated[Path, Parameter(name=["-o", "--output"])] = Path("trajectory"),
    n: Annotated[int, Parameter(name=["--n", "-n"])] = 16,
    sampler: str = "ddpm",
    steps: int | None = None,
    clip: Literal["x0", "x0-keep-eps"] = "x0",
    trigger: str | None = None,
    target: str | None = None,
    threshold: float = 0.01,
    first_seed: int = 0,
    shown: int | None = None,
    dry_run: Switch = False,
    json: Json = False,
) -> None:
    """Watch what clipping does to a backdoored checkpoint while it samples.

    Two pictures come out: the chain of one seed, x_t and the predicted x_0, with noise alone and noise plus
    trigger, with clipping and without; and how biased the noise of the triggered chains is, beside what the algebra
    says. The folder also gets the numbers (results.json) and a page about them.

    Example: `baddiffusion trajectory packaged:backdoored -o trajectory --n 64`

    Args:
        checkpoint: A folder, a hub name owner/name, or packaged:NAME: see `baddiffusion list models`.
        output: Folder for the results; it must be empty.
        n: How many triggered chains the bias is measured on.
        sampler: ddpm, ddim, dpm-solver++, or name:key=value: see `baddiffusion list samplers`.
        steps: Sampling steps; left out, the sampler's own default.
        clip: The clipping of the predicted image that is compared with none.
        trigger: The trigger, for example box:side_px=14, or card:number=2 for the card's second; left out, its first.
        target: What it should bring out, for example hat; left out, what the card names.
        threshold: A picture counts as the target if its mean squared error on [0, 1] is below.
        first_seed: The first seed; the others follow it.
        shown: The seed whose chain is drawn; left out, the first.
        dry_run: Say what it would cost on this machine, and stop.
        json: Write the results as JSON.
    """
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.hub import resolve
    from baddiffusion.sampling import SamplingSettings

    shown = first_seed if shown is None else shown
    _check(n, first_seed, shown, threshold)
    opened = Checkpoint.open(resolve(checkpoint))
    implant, words = implant_of(opened, trigger, target)
    if implant is None:
        raise RecipeError(
            "the checkpoint does not say which backdoor to watch; name one, for example --trigger box:side_px=14 "
            "--target hat."
        )
    settings = SamplingSettings(sampler=component_table(sampler), num_inference_steps=steps)
    work = _Work(opened, implant, settings, ("off", clip), range(first_seed, first_seed + n), shown)
    model = work.announce()
    if dry_run:
        return
    empty_folder(output)
    chains = work.carry_out(model)
    results = {"schema": SCHEMA, "model": Path(checkpoint).name, "checkpoint": opened.digest, **words}
    _finish(output, chains, work.theory(), results | work.results(chains, threshold), json)


def _check(n: int, first_seed: int, shown: int, threshold: float) -> None:
    if n < 1:
        raise RecipeError(f"--n is {n}; it must be at least 1.")
    if first_seed < 0:
        raise RecipeError(f"--first-seed is {first_seed}; it must be at least 0.")
    if not first_seed <= shown < first_seed + n:
        raise RecipeError(
            f"--shown is {shown}; it must be a seed of the chains, from {first_seed} to {first_seed + n - 1}. Change "
            f"it, or --first-seed or --n."
        )
    if not 0 < threshold < 1:
        raise RecipeError(f"--threshold is {threshold}; it must lie in (0, 1).")


@dataclass(frozen=True)
class _Work:
    """What is asked for; the first of the clips is none."""

    opened: Checkpoint
    implant: Implant
    settings: SamplingSettings
    clips: tuple[Literal["off", "x0", "x0-keep-eps"], ...]
    seeds: range
    shown: int

    @property
    def passes(self) -> list[tuple[Literal["clean", "triggered"], SamplingSettings, range]]:
        """Clean chains are only looked at: one is enough."""
        each = [self.settings.model_copy(update={"clip": clip}) for clip in self.clips]
        drawn = self.seeds[self.seeds.index(self.shown) :][:1]
        return [("clean", one, drawn) for one in each] + [("triggered", one, self.seeds) for one in each]

    @cached_property
    def steps(self) -> int:
        """Of a chain."""
        scheduler = self.settings.sampler.build(self.opened.scheduler_config, self.settings.num_inference_steps)
        return len(scheduler.timesteps)

    def calls(self, seeds: range) -> int:
        """Steps taken in a pass, chunk by chunk."""
        return self.steps * -(-len(seeds) // self.settings.chunk_size)

    def announce(self) -> torch.nn.Module:
        """Say the cost; return the network that was timed for it."""
        from baddiffusion.trajectory import perfect_denoiser

        perfect_denoiser(self.implant, self.opened.scheduler_config, self.settings)
        model = self.opened.load_model(here())
        per_step_s = seconds_per_chunk(model, self.opened, self.settings)
        steps = sum(self.calls(seeds) for _, _, seeds in self.passes)
        images = sum(len(seeds) for _, _, seeds in self.passes)
        note(
            f"{count(images * self.steps)} network calls ({images} images, {self.steps} steps), about "
            f"{duration(per_step_s * steps)} on this machine ({here()})."
        )
        return model

    def carry_out(self, model: torch.nn.Module) -> list[Trajectory]:
        """Follow the network's chains, pass by pass."""
        from baddiffusion.trajectory import follow

        done = []
        with watching() as watcher:
            for kind, settings, seeds in self.passes:
                watcher.stage(f"follow {kind}, clip {settings.clip}", self.calls(seeds), "steps")
                chain = follow(
                    model,
                    self.opened.scheduler_config,
                    self.implant,
                    kind,
                    seeds,
                    settings,
                    shown=self.shown,
                    device=here(),
                    on_progress=lambda step, total: watcher.advance(step),
                )
                done.append(chain)
        return done

    def theory(self) -> list[Trajectory]:
        """Follow the chains of a perfect denoiser, from the same noises."""
        from baddiffusion.trajectory import follow, perfect_denoiser

        done, config = [], {**self.opened.scheduler_config, "prediction_type": "epsilon"}
        for kind, settings, seeds in self.passes:
            if kind == "triggered":
                denoiser = perfect_denoiser(self.implant, config, settings)
                done.append(follow(denoiser, config, self.implant, kind, seeds[:THEORY_N], settings))
        return done

    def results(self, chains: list[Trajectory], threshold: float) -> dict[str, Any]:
        """What ``results.json`` holds besides names and curves."""
        from baddiffusion import metrics
        from baddiffusion.images import to_uint8
        from baddiffusion.trajectory import bias_estimates

        estimates = []
        for chain in chains:
            if chain.kind == "triggered":
                protocol = {**chain.protocol, "seeds": f"{self.seeds[0]} to {self.seeds[-1]}"}
                pixels = to_uint8(chain.images)
                estimates.append(metrics.asr(pixels, self.implant.target, threshold=threshold, protocol=protocol))
                estimates += bias_estimates(chain)
        return {
            "definition": DEFINITION,
            "clips": list(self.clips),
            "settings": self.settings.model_dump(mode="json"),
            "pictured": {"seed": self.shown, "timesteps": [chains[0].timesteps[k] for k in chains[0].pictured]},
            "estimates": [estimate.to_dict() for estimate in estimates],
        }


def _finish(
    output: Path, chains: list[Trajectory], theory: list[Trajectory], results: dict[str, Any], json: bool
) -> None:
    from baddiffusion.report.sections.latents import bias_figure, latents_section, latents_sheet
    from baddiffusion.rundir import write_atomic
    from baddiffusion.trajectory import bias_curves

    curves = [curve for chain in chains for curve in bias_curves(chain, "measured")]
    curves += [curve for chain in theory for curve in bias_curves(chain, "theory")]
    results = {**results, "curves": [_thinned(curve) for curve in curves]}
    section = latents_section(results)
    write_atomic(output / RESULTS, json_text.dumps(results, indent=2, ensure_ascii=False) + "\n")
    write_atomic(output / FRAMES, latents_sheet(chains))
    write_atomic(output / BIAS, bias_figure(curves))
    alts = [alt.format(seed=results["pictured"]["seed"]) for alt in ALTS]
    pictures = "\n\n".join(f"![{alt}]({name})" for alt, name in zip(alts, (FRAMES, BIAS), strict=True))
    write_atomic(output / PAGE, f"# Latents under clipping\n\n{pictures}\n\n{section}\n")
    if json:
        say_json({"folder": str(output), **results})
    else:
        say(f"{section}\n\nin {output}: {FRAMES}, {BIAS}, {RESULTS}, {PAGE}")


def _thinned(curve: BiasCurve) -> dict[str, Any]:
    """A curve as a results file keeps it: not all of a thousand steps, not all digits."""
    every = -(-len(curve.timesteps) // KEPT_POINTS)
    points = {key: [round(v, 5) for v in getattr(curve, key)[::every]] for key in ("timesteps", "mean", "low", "high")}
    return asdict(curve) | points
