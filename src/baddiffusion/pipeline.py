"""One way: data → poisoning → training → checkpoint → sampling → metrics, each stage written once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from baddiffusion.card import placeless
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.evaluation import SampleSet, evaluate
from baddiffusion.experiment import FRESH_SCHEDULER, Experiment
from baddiffusion.images import Images
from baddiffusion.poisoning import plans_to_dict
from baddiffusion.recipe import Recipe
from baddiffusion.rundir import EventLog, RunDir, write_atomic
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.sampling.schedulers import train_timesteps
from baddiffusion.sampling.store import SampleStore
from baddiffusion.sampling.viewed import sample_through
from baddiffusion.snapshots import Snapshots
from baddiffusion.training import Job, Progress, TrainingState, require_tracker, tracking, train
from baddiffusion.watching import Nobody, Watcher

__all__ = ["FRESH_SCHEDULER", "Watcher", "run_recipe"]

Stage = Literal["train", "sample", "evaluate"]


def run_recipe(
    recipe: Recipe,
    runs: Path = Path("runs"),
    watcher: Watcher | None = None,
    until: Stage = "evaluate",
    tracker: str | None = None,
) -> RunDir:
    """Run a recipe, or what is left of it: finished stages are recognized by their digests and not repeated.

    Started by ``torchrun`` or ``accelerate launch``, all processes share the training; the main one does the rest.

    Args:
        recipe: what to do.
        runs: folder that holds run directories; this one is ``runs/<name>-<hash of the resolved recipe>``.
        watcher: told about progress.
        until: the last stage to run.
        tracker: one of accelerate's trackers, such as ``tensorboard``, to log the training to as well. It changes
            nothing about the run, and is no part of its identity.

    Returns:
        The run directory, with ``checkpoint/``, ``samples/`` and ``metrics.json`` as far as ``until`` goes.

    Raises:
        BadDiffusionError: whatever the user can mend, each with its own message; the run then says *failed*.
    """
    if not Accelerator().is_main_process:
        return _train_along(recipe, runs)
    if tracker is not None:
        require_tracker(tracker)
    run = RunDir.start(runs, recipe.name, recipe.digest, recipe.to_toml())
    work = _Experiment(recipe, run, watcher or Nobody(), tracker)
    with run.recording():
        run.record["device"] = work.device_name
        work.train()
        if until != "train":
            work.sample()
        if until == "evaluate":
            work.evaluate()
    return run


def _train_along(recipe: Recipe, runs: Path) -> RunDir:
    """What the other processes of `torchrun` do: their share of the training, and nothing else."""
    path = runs / f"{recipe.name}-{recipe.digest}"
    if _agreed(None):
        work = _Experiment(recipe, RunDir(path, {}), Nobody())
        train(work.starting_model(), work.job, path / "training_state")
    return RunDir.read(path)


def _agreed(needed: bool | None) -> bool:
    """Tell every process what the main process says: whether the training is still to be done."""
    told: list[Any] = broadcast_object_list([needed])
    return bool(told[0])


@dataclass(eq=False)
class _Experiment(Experiment):
    """A recipe at work in its run directory: the three stages."""

    run: RunDir
    watcher: Watcher
    tracker: str | None = None

    @property
    def runs(self) -> Path:
        return self.run.path.parent

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint.open(self.run.path / "checkpoint")

    def train(self) -> None:
        """Fine-tune the base, or train from scratch, and write the checkpoint."""
        self.check_sampling()
        inputs = {
            "recipe": self.recipe.digest,
            "base": self.base.digest if self.base else None,
            "pictures": self.implants.digest,
            "data": self.data.digest,
            **({} if self.decoys is None else {"decoys": self.decoys.digest}),
        }
        if not _agreed(not self.run.is_done("train", inputs)):
            return
        started = time.perf_counter()
        decoys = None if self.job.decoys is None else self.job.decoys[0]
        write_atomic(self.run.path / "poison_plan.json", json.dumps(plans_to_dict(self.job.plans, decoys)) + "\n")
        model, state = self.starting_model(), self.run.path / "training_state"
        reached, snapshots = TrainingState.reached(state), Snapshots(self.run.path / "snapshots", self)
        snapshots.require(reached)
        with tracking(self.tracker, *self._tracked(), reached) as tell:
            train(model, self.job, state, self._training_log(self.job, tell), snapshots.write)
        folder = self.run.path / "checkpoint"
        if folder.exists():  # written, but the run was killed before it could say so
            shutil.rmtree(folder)
        Checkpoint.write(folder, model, self.scheduler_config, self.card(), self.pictures())
        outputs = [folder, self.run.path / "poison_plan.json", self.run.path / "events.jsonl", *snapshots.finish()]
        self.run.finish("train", inputs, outputs, time.perf_counter() - started)

    def sample(self) -> None:
        """Sample the same noises clean and triggered, and triggered under every way of clipping."""
        plan = self.recipe.sampling
        for clip in plan.clips:
            settings = self.settings.model_copy(update={"clip": clip})
            for kind in self.implants.by_kind:
                self._sample_set(kind, settings, plan.n, self.checkpoint)
            if clip == plan.clips[0]:
                self._sample_set("clean", settings, plan.n, self.checkpoint)
        quality = self.recipe.evaluation
        if quality.quality_n:
            settings = self.settings.model_copy(
                update={"sampler": quality.quality_sampler, "num_inference_steps": quality.quality_steps}
            )
            self._sample_set("clean", settings, quality.quality_n, self.checkpoint, "quality-")
            if self.base:
                self._sample_set("base", settings, quality.quality_n, self.base, "quality-")

    def evaluate(self) -> None:
        """Measure what was sampled and write ``metrics.json``."""
        stages = self.run.record["stages"]
        inputs = {name: entry["outputs"] for name, entry in stages.items() if name.startswith("sample:")}
        if self.run.is_done("evaluate", inputs):
            return
        started = time.perf_counter()
        self.watcher.stage("measure", 1, "stage")
        sets = [SampleSet.read(self.run.path / name.removeprefix("sample:")) for name in sorted(inputs)]
        path = self.run.path / "metrics.json"
        results = evaluate(sets, self.aims(), self.data, self.recipe.evaluation.asr_threshold)
        write_atomic(path, json.dumps(results.to_dict(), indent=2) + "\n")
        self.run.finish("evaluate", inputs, [path], time.perf_counter() - started)
        self.watcher.advance(1)

    def _sample_set(
        self, kind: str, settings: SamplingSettings, n: int, checkpoint: Checkpoint, prefix: str = ""
    ) -> None:
        folder = f"samples/{prefix}{self._label(settings)}/{kind}"
        stage = f"sample:{folder}"
        inputs = {"checkpoint": checkpoint.digest, "n": n, **settings.model_dump(mode="json")}
        if self.run.is_done(stage, inputs):
            return
        started = time.perf_counter()
        store = SampleStore(self.run.path / folder)
        model = checkpoint.load_model(self.device)
        implant = self.implants.by_kind.get(kind)
        trigger = (lambda eps: implant.attack.initial_noise(eps, implant.trigger)) if implant is not None else None
        view = implant.attack.view(implant.trigger) if implant is not None else None
        draw = sample if view is None else partial(sample_through, view)
        self.watcher.stage(f"sample {kind}, {self._label(settings)}", n, "images")

        def make(seeds: Sequence[int]) -> tuple[Images, dict[str, Any]]:
            samples = draw(
                model,
                checkpoint.scheduler_config,
                self.shape,
                seeds,
                settings,
                initial_noise=trigger,
                device=self.device,
                on_progress=lambda done, total: self.watcher.advance(seeds[0] + done * len(seeds) // total),
            )
            return samples.images, {
                "kind": kind,
                "settings": settings.model_dump(mode="json"),
                "record": samples.record.to_dict(),
            }

        store.fill(n, make)
        self.run.finish(stage, inputs, [store.folder], time.perf_counter() - started)

    def _label(self, settings: SamplingSettings) -> str:
        """Name of a sample set's folder: sampler, steps, clipping."""
        steps = settings.num_inference_steps or settings.sampler.default_steps(train_timesteps(self.scheduler_config))
        return f"{settings.sampler.component_name}-{steps}-{settings.clip}"

    def _tracked(self) -> tuple[Path, str, dict[str, Any]]:
        """What a tracker is told first: its folder, the run's name, the recipe."""
        return self.run.path / "tracking", self.run.path.name, placeless(self.recipe.to_dict())

    def _training_log(self, job: Job, tell: Callable[[Progress], None]) -> Callable[[Progress], None]:
        log, batch = EventLog(self.run.path / "events.jsonl"), self.recipe.training.train_batch_size
        self.watcher.stage("train", job.total_steps * batch, "images")

        def report(progress: Progress) -> None:
            log.append(progress.to_dict())
            tell(progress)
            losses = {"clean": progress.loss_clean, "poisoned": progress.loss_poisoned, "decoys": progress.loss_decoys}
            said = "  ".join(f"{name} {loss:.4f}" for name, loss in losses.items() if loss is not None)
            self.watcher.advance(progress.step * batch, f"loss {said}  {progress.images_per_s:.0f} images/s")

        return report
