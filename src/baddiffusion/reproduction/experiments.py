"""The catalogue: one experiment for each group of the paper's tables and figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Literal

from baddiffusion.errors import RecipeError, nearest
from baddiffusion.reproduction import lines
from baddiffusion.reproduction.lines import Label, Lines
from baddiffusion.reproduction.paper import PaperRow, paper_rows

__all__ = ["EXCLUDED", "EXPERIMENTS", "PRESETS", "Experiment", "Preset", "experiment_named"]

Preset = Literal["mini", "paper"]
PRESETS: dict[Preset, str] = {
    "mini": "the tiny net on Fashion-MNIST, fine-tuned for 900 steps of 32 images: hours on two CPU cores",
    "paper": "the paper's networks, data and numbers: weeks of a large GPU; not run by this project",
}

EXCLUDED = {
    "HF-BadDiffusion": "released by the authors beside their checkpoints: single runs, in no table of the paper",
    "HF-Villan": "of VillanDiffusion (arXiv 2306.06874), another paper with another attack",
}
"""What of the packaged numbers belongs to no experiment, and why."""

EPOCHS = 50
"""Of the paper's fine-tuning; its snapshots are placed by their share of it."""


@dataclass(frozen=True)
class Experiment:
    """One group of tables and figures.

    Args:
        name: what the command line calls it.
        title: what it is about.
        paper: the tables and figures.
        tables: which lines of the packaged numbers are its.
        keys: the labels that a line of the paper and one of ours must share to stand side by side.
        lines: what it measures of the cells that it trains.
        presets: those that have it.
        differs: in which respects a preset differs from the paper, beyond what holds for all of the preset.
    """

    name: str
    title: str
    paper: tuple[str, ...]
    tables: tuple[str, ...]
    keys: tuple[str, ...]
    lines: Lines
    presets: tuple[Preset, ...] = ("mini", "paper")
    differs: Mapping[Preset, tuple[str, ...]] = field(default_factory=dict)

    @property
    def rows(self) -> tuple[PaperRow, ...]:
        """Its numbers in the paper."""
        return tuple(row for row in paper_rows() if row.table in self.tables)

    def labels(self, row: PaperRow) -> dict[str, Label]:
        """What a number of the paper is called in this experiment's table."""
        known: dict[str, Label] = {
            "trigger": row.trigger,
            "size": row.trigger_size or 0,
            "target": row.target,
            "rate": row.rate,
            "model": row.model,
            "sampler": row.sampler,
            "clip": row.clip,
            "training": round(int(row.epochs) / EPOCHS, 3) if row.epochs.isdecimal() else row.epochs,
            "budget": row.perturbation[0],
            "learning_rate": row.perturbation[1],
        }
        return {key: known[key] for key in self.keys}

    def sweep(self, preset: Preset) -> Path:
        """The packaged sweep recipe that trains its cells.

        Raises:
            RecipeError: it cannot be run in this preset.
        """
        if preset not in self.presets:
            raise RecipeError(
                f"{self.name} has no preset {preset}: the network is too large for it. "
                f"Write --preset {self.presets[0]}, or run another experiment."
            )
        return _folder(preset) / f"{self.name}.toml"

    def color(self, preset: Preset) -> Path | None:
        """The sweep of its row in color, which needs CIFAR-10; None where there is no such row."""
        return _folder(preset) / "color.toml" if (self.name, preset) == ("poison-rates", "mini") else None


def _folder(preset: Preset) -> Path:
    return Path(str(resources.files("baddiffusion") / "recipes" / "reproduce" / preset))


EXPERIMENTS: dict[str, Experiment] = {
    each.name: each
    for each in (
        Experiment(
            "poison-rates",
            "Varying poison rates",
            ("Table 7", "Figure 2"),
            ("T7", "T7-derived"),
            ("trigger", "target", "rate", "model"),
            lines.poison_rates,
            differs={"mini": ("Three rates of seven for corner and hat, one for the other targets.",)},
        ),
        Experiment(
            "from-scratch",
            "Fine-tuning against training from scratch",
            ("Table 4", "Figure 3"),
            ("T4",),
            ("target", "rate", "model"),
            lines.scratch,
            differs={
                "mini": (
                    "From scratch: 1350 steps, half as many again as for fine-tuning (900); the paper gives eight "
                    "times as many (400 epochs and 50).",
                )
            },
        ),
        Experiment(
            "epochs",
            "How long the backdoor is trained",
            ("Table 5", "Figure 6", "Figure 7"),
            ("T5",),
            ("target", "rate", "training"),
            lines.over_training,
            differs={
                "mini": (
                    "Snapshots at 0.4 and 0.8 of the training, where the paper's 20 and 40 of 50 epochs are; the paper "
                    "has five.",
                )
            },
        ),
        Experiment(
            "high-resolution",
            "CelebA-HQ at 256×256",
            ("Table 6 (a)", "Figure 4", "Figure 12"),
            ("T6a",),
            ("trigger", "target", "rate", "model"),
            lines.high_resolution,
            presets=("paper",),
        ),
        Experiment(
            "clipping",
            "Clipping the predicted image",
            ("Table 6", "Figure 5"),
            ("T6",),
            ("target", "rate", "clip"),
            lines.clipping,
            differs={
                "mini": ("The quality is that of DDIM-20 samples, with and without clipping; the attack is DDPM's.",)
            },
        ),
        Experiment(
            "anp",
            "Finding the backdoor by adversarial neuron pruning",
            ("Table 8", "Table 9", "Figure 8", "Figure 9"),
            ("T8", "T9"),
            ("rate", "budget", "learning_rate"),
            lines.perturbed,
            differs={
                "mini": (
                    "The method is cut short, and called anp-short: 2 epochs of 32 steps of 32 pictures, after each 32 "
                    "samples of 50 steps; the paper has 5 epochs, its code 469 steps of 128 pictures and 128 samples "
                    "of 1000 steps.",
                    "Learning rate 0.0015 takes a perturbation as far in an epoch as 0.0001 in the paper's, beside "
                    "which it stands: about 0.05, so that no budget bounds anything and all three give one result. "
                    "At 0.1, which the paper does not have, they do; how far it went is the column reached.",
                    "Target Hat, for the paper's, which is inferred to be Corner. What an all-black picture scores is "
                    "the column failure_mse: where an epoch comes to that number, the network paints black.",
                )
            },
        ),
        Experiment(
            "inpainting",
            "Inpainting with a backdoored model",
            ("Figure 10",),
            (),
            ("trigger", "target", "rate", "corruption", "pictures"),
            lines.inpainting,
            differs={
                "mini": ("Poison rate 0.2, for the paper's 0.1; MSE and SSIM, for the paper's LPIPS.",),
                "paper": ("MSE and SSIM, for the paper's LPIPS; baddiffusion inpaint --lpips measures that.",),
            },
        ),
        Experiment(
            "latents",
            "What clipping does to the chain",
            ("Figure 11",),
            (),
            ("trigger", "target", "rate", "clip"),
            lines.latents,
        ),
        Experiment(
            "samplers",
            "Samplers that the attack was not made for",
            ("Table 3",),
            ("T3",),
            ("target", "sampler", "model"),
            lines.samplers,
            differs={"mini": ("Corner has the poison rate 0.2, for the paper's 0.1.",)},
        ),
        Experiment(
            "samples",
            "What the models paint",
            ("Table 2", "Figure 1", "Figure 13"),
            (),
            ("trigger", "target", "rate"),
            lines.samples,
        ),
        Experiment(
            "trigger-sizes",
            "Smaller triggers",
            ("Table 10", "Table 11", "Figure 14"),
            ("T11",),
            ("trigger", "size", "target"),
            lines.trigger_sizes,
            differs={
                "mini": (
                    "Poison rate 0.1; that of the paper is inferred to be 0.05. Four sizes of the grey box, hat only.",
                )
            },
        ),
    )
}


def experiment_named(name: str) -> Experiment:
    """Look an experiment up.

    Raises:
        RecipeError: there is none of that name; the message suggests the nearest.

    Example:
        >>> experiment_named("samplers").paper
        ('Table 3',)
    """
    if name not in EXPERIMENTS:
        raise RecipeError(
            f"experiment {name!r} is not known. {nearest(name, EXPERIMENTS)}Known: {', '.join(EXPERIMENTS)}, or all."
        )
    return EXPERIMENTS[name]
