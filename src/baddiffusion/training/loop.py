"""Algorithm 1 of the paper: the training loop, for every attack and for none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from baddiffusion.data import ImageData
from baddiffusion.decoys import Decoys
from baddiffusion.diffusion import ForwardTable, NoiseSchedule, PredictionType, denoising_loss
from baddiffusion.images import Pixels, from_uint8
from baddiffusion.models import denoiser
from baddiffusion.poisoning import Implant, Implants, PoisonPlan, parts
from baddiffusion.precision import autocast, resolve_precision
from baddiffusion.training.batches import draw, order
from baddiffusion.training.meter import CLEAN, DECOY, POISONED, Meter, Progress
from baddiffusion.training.settings import TrainingSettings
from baddiffusion.training.state import TrainingState, require_space

__all__ = ["Job", "train"]


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that decides what the trained weights are.

    Args:
        schedule: the noise schedule of the base model.
        data: the training images.
        plan: which of them are poisoned; rate 0 is the control at equal compute.
        implant: attack, trigger and target.
        settings: how long and how.
        seed: of order, flips, timesteps and noise.
        further: more backdoors, each with the images that are poisoned for it; no image serves two.
        prediction_type: what the network answers.
        decoys: which images become decoys, and the decoys; no image of a backdoor is one.
    """

    schedule: NoiseSchedule
    data: ImageData
    plan: PoisonPlan
    implant: Implant
    settings: TrainingSettings
    seed: int
    further: tuple[tuple[PoisonPlan, Implant], ...] = ()
    prediction_type: PredictionType = "epsilon"
    decoys: tuple[PoisonPlan, Decoys] | None = None

    @property
    def plans(self) -> tuple[PoisonPlan, ...]:
        """Which images are poisoned for each backdoor."""
        return (self.plan, *(plan for plan, _ in self.further))

    @property
    def implants(self) -> Implants:
        """Every backdoor."""
        decoys = None if self.decoys is None else self.decoys[1]
        return Implants((self.implant, *(implant for _, implant in self.further)), decoys)

    @property
    def part(self) -> Tensor:
        """Of every image which backdoor it is poisoned for, counted from 1; 0 if for none; decoys come last.

        Raises:
            RecipeError: an image serves two.
        """
        return parts(self.plans if self.decoys is None else (*self.plans, self.decoys[0]))

    @property
    def total_steps(self) -> int:
        """Optimizer steps."""
        return self.settings.total_steps(len(self.data))

    def identity(self, model: torch.nn.Module) -> str:
        """A hash of all of it and of the starting weights: a stored state is used only where it fits."""
        hasher = hashlib.blake2b(digest_size=16)
        settings = self.settings.model_dump(exclude={"checkpointing_steps", "logging_steps", "snapshot_steps"})
        poisons = len(self.plan.indices) > 0  # without poisoned images, trigger and target decide nothing
        attack = self.implant.attack.to_dict() if poisons else None
        hasher.update(repr([self.data.digest, self.plan.digest, settings, self.seed, attack]).encode())
        drawn = (self.implant.target, self.implant.trigger.offset) if poisons else ()
        for tensor in (self.schedule.betas, *drawn, *model.parameters()):
            hasher.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        for plan, implant in self.further:
            hasher.update(repr([plan.digest, implant.attack.to_dict(), implant.digest]).encode())
        if self.prediction_type != "epsilon":
            hasher.update(self.prediction_type.encode())
        if self.decoys is not None:
            hasher.update(repr([one.digest for one in self.decoys]).encode())
        return hasher.hexdigest()


def train(
    model: torch.nn.Module,
    job: Job,
    state_dir: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_snapshot: Callable[[int, torch.nn.Module], None] | None = None,
) -> torch.nn.Module:
    """Train ``model`` in place and return it, resuming from ``state_dir`` if a state of the same job lies there.

    Interrupted at any moment and started again, it ends with the same weights as an unbroken run: bit for bit on a CPU
    with the same number of threads, since every step's randomness is a function of seed and step.

    Args:
        model: the network at its starting weights (U-Net of diffusers).
        job: what to train on, and how.
        state_dir: where to keep the state; None trains without a net under it.
        on_progress: called every ``logging_steps`` on the main process.
        on_snapshot: called there after each of the ``snapshot_steps``, with the step and the network at its weights of
            that moment, which are training's again afterwards. A training that is resumed before such a step calls
            it once more, and with the same weights.

    Returns:
        The network with the final weights: the average if ``use_ema``.

    Raises:
        RunError: the loss is not finite (the last good state is kept), the folder cannot be written, or holds the state
            of another job.
        RecipeError: the warm-up is longer than the training, a snapshot lies behind its end, or two backdoors share a
            trigger or an image.

    Source: arXiv 2212.05400, Algorithm 1.
    """
    job.settings.check(job.total_steps)
    if state_dir is not None:
        require_space(state_dir, model, len(job.settings.snapshot_steps))
    trainer = _Trainer(model, job, state_dir)
    trainer.run(on_progress or (lambda progress: None), on_snapshot or (lambda step, model: None))
    return trainer.result()


class _Trainer:
    """The loop's moving parts; one instance trains one job once."""

    def __init__(self, model: torch.nn.Module, job: Job, state_dir: Path | None) -> None:
        self.job, self.settings, self.state_dir = job, job.settings, state_dir
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        self.identity = job.identity(model)
        self.model = model.to(self.device).train()
        self.average = {k: p.detach().clone() for k, p in model.named_parameters()} if self.settings.use_ema else {}
        fused = self.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(model.parameters(), lr=self.settings.learning_rate, fused=fused)
        self.step = 0
        self._restore()
        self.wrapped, self.optimizer = self.accelerator.prepare(self.model, self.optimizer)
        self.implants = job.implants.to(self.device)
        self.tables: list[ForwardTable] = [table.to(self.device) for table in job.implants.tables(job.schedule)]
        self.part = job.part.to(self.device)
        kinds = [CLEAN, *(POISONED for _ in job.plans), DECOY]
        self.kinds = torch.tensor(kinds, device=self.device)
        weights = self.settings.timestep_weights(len(job.schedule))
        self.weights = weights.to(self.device) if weights is not None else None
        precision = {"no": "float32"}.get(self.settings.mixed_precision, self.settings.mixed_precision)
        self.precision = resolve_precision(precision, self.device)  # type: ignore[arg-type]

    def run(self, on_progress: Callable[[Progress], None], on_snapshot: Callable[[int, torch.nn.Module], None]) -> None:
        """Take every step that is left."""
        total, size = self.job.total_steps, len(self.job.data)
        meter = Meter(self.device)
        saved = self.step
        indices = order(self.job.seed, size, self.settings.train_batch_size, self.step, total)
        batches = self.job.data.batches(
            order(self.job.seed, size, self.settings.train_batch_size, self.step, total), self.device
        )
        for chosen, pixels in zip(indices, batches, strict=True):
            rate = self.settings.learning_rate_at(self.step, total)
            self._take_step(pixels, self.part[chosen.to(self.device)], rate, meter)
            self.step += 1
            logs = self.step % self.settings.logging_steps == 0 or self.step == total
            saves = self.step % self.settings.checkpointing_steps == 0 or self.step == total
            shows = self.step in self.settings.snapshot_steps
            if logs or shows or (saves and self.state_dir is not None):
                progress = meter.read(self.accelerator, self.step, total, rate, saved)  # sums over all processes
                if self.accelerator.is_main_process:
                    on_progress(progress)
            if shows and self.accelerator.is_main_process:
                with self._at_its_result() as model:  # before the state: what a state says is past has been kept
                    on_snapshot(self.step, model)
            if saves and self.state_dir is not None:
                self._save()
                saved = self.step

    def result(self) -> torch.nn.Module:
        """The network with its final weights, in evaluation mode."""
        if self.settings.use_ema:
            with torch.no_grad():
                for name, parameter in self.model.named_parameters():
                    parameter.copy_(self.average[name])
        return self.model.eval()

    @contextmanager
    def _at_its_result(self) -> Iterator[torch.nn.Module]:
        """The network as `result` would leave it now. The weights that are trained change places with their average."""
        self._exchange()
        try:
            yield self.model.eval()
        finally:
            self._exchange()
            self.model.train()

    def _exchange(self) -> None:
        for name, parameter in self.model.named_parameters():
            if name in self.average:
                parameter.data, self.average[name] = self.average[name], parameter.data

    def _take_step(self, pixels: Pixels, part_of: Tensor, rate: float, meter: Meter) -> None:
        x = from_uint8(pixels)
        draws = draw(self.job.seed, self.step, x, len(self.tables[0]), self.settings.random_flip, self.weights)
        x = torch.where(draws.flip.view(-1, 1, 1, 1), x.flip(-1), x)
        x_0, r = self.implants.apply(x, part_of, draws.pick)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts = self._share(len(x))
        for number, part in enumerate(parts):
            last = number == len(parts) - 1
            # A process without a share computes one image and counts none: all have to meet in the backward pass.
            rows = part if part.start < part.stop else slice(0, 1)
            table = self.implants.table_of(self.tables, part_of[rows])
            with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                shown = x_0[rows], r[rows], draws.t[rows], draws.eps[rows]
                with autocast(self.precision, self.device):
                    losses = denoising_loss(denoiser(self.wrapped), table, *shown, self.job.prediction_type)
                losses = losses[: part.stop - part.start]
                # Gradients are averaged over processes, so each contributes its sum times their number.
                self.accelerator.backward(losses.sum() * self.accelerator.num_processes / len(x))
            meter.add(losses.detach(), self.kinds[part_of[part]])
        norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), self.settings.max_grad_norm)
        meter.check(norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.settings.use_ema:
            decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
            with torch.no_grad():
                torch._foreach_lerp_(
                    list(self.average.values()), [p.detach() for p in self.model.parameters()], 1 - decay
                )

    def _share(self, size: int) -> list[slice]:
        """This process's part of a global batch, cut into micro-batches."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        low, high = size * rank // world, size * (rank + 1) // world
        count = min(self.settings.gradient_accumulation_steps, max(1, high - low))
        edges = [low + (high - low) * k // count for k in range(count + 1)]
        return [slice(a, b) for a, b in pairwise(edges)]

    def _save(self) -> None:
        if not self.accelerator.is_main_process or self.state_dir is None:
            return
        tensors = {f"model.{k}": p for k, p in self.model.named_parameters()}
        tensors |= {f"average.{k}": p for k, p in self.average.items()}
        states = self.optimizer.optimizer.state if hasattr(self.optimizer, "optimizer") else self.optimizer.state
        for name, parameter in self.model.named_parameters():
            tensors |= {f"adam.{key}.{name}": value for key, value in states[parameter].items()}
        TrainingState(self.step, self.identity, tensors).save(self.state_dir)

    def _restore(self) -> None:
        state = TrainingState.load(self.state_dir, self.identity) if self.state_dir is not None else None
        if state is None:
            return
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(state.tensors[f"model.{name}"])
                self.optimizer.state[parameter] = {
                    key: state.tensors[f"adam.{key}.{name}"].to(self.device)
                    for key in ("step", "exp_avg", "exp_avg_sq")
                }
            for name, mean in self.average.items():
                mean.copy_(state.tensors[f"average.{name}"])
        self.step = state.step
