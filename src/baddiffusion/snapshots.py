"""Checkpoints from the middle of a training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from baddiffusion.card import Snapshot
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.errors import RunError
from baddiffusion.experiment import Experiment
from baddiffusion.models import UNet2DModel

__all__ = ["Snapshots"]


@dataclass(frozen=True, eq=False)
class Snapshots:
    """The folder ``snapshots/`` of a run, with one plain checkpoint for each of the recipe's ``snapshot_steps``."""

    folder: Path
    experiment: Experiment

    @property
    def paths(self) -> dict[int, Path]:
        """Where the snapshot of each step lies, or will."""
        return {step: self.folder / str(step) for step in self.experiment.recipe.training.snapshot_steps}

    def write(self, step: int, model: torch.nn.Module) -> None:
        """Write the snapshot of one step, whole or not at all; one that an interrupted run wrote gives way.

        Raises:
            CheckpointError: a weight is not finite, or the folder cannot be written.
        """
        path, replaced = self.paths[step], self.folder / f".{step}.replaced"
        shutil.rmtree(replaced, ignore_errors=True)
        if path.exists():  # the training went on from an earlier state
            path.rename(replaced)
        job, what = self.experiment.job, self.experiment
        kept = Snapshot(step=step, total_steps=job.total_steps, images=job.settings.images_after(step, len(job.data)))
        card = what.card().model_copy(update={"snapshot": kept})
        network = cast(UNet2DModel, model)  # what is trained is what `Experiment.starting_model` returned
        Checkpoint.write(path, network, what.scheduler_config, card, what.pictures())
        shutil.rmtree(replaced, ignore_errors=True)

    def require(self, reached: int) -> None:
        """See to it that every snapshot is there that a training at step ``reached`` has left behind.

        Raises:
            RunError: one was removed meanwhile.
        """
        for step, path in self.paths.items():
            if step <= reached and not path.exists():
                raise RunError(
                    f"{path} was removed, and the training is past its step already (at {reached}); delete "
                    f"{self.folder.parent / 'training_state'} to train from the start."
                )

    def finish(self) -> list[Path]:
        """What the training leaves; what kills left beside it is swept.

        Raises:
            RunError: a snapshot was removed meanwhile.
        """
        self.require(self.experiment.job.total_steps)
        for abandoned in self.folder.glob(".*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        return list(self.paths.values())
