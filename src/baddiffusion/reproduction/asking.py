"""What an experiment asks a finished model beyond what its run measured, and how it is answered."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch

from baddiffusion.card import placeless
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.evaluation import SampleSet
from baddiffusion.hub import resolve
from baddiffusion.images import Images
from baddiffusion.matrix import Column, Design, MatrixPlan, Subject
from baddiffusion.matrix.cells import Cell
from baddiffusion.matrix.plan import LEAST_N
from baddiffusion.matrix.store import Entry
from baddiffusion.metrics import KD_LEAST
from baddiffusion.metrics.reference import QUOTABLE_N
from baddiffusion.recipe import Recipe
from baddiffusion.reproduction.quality import fid_of, reference_of
from baddiffusion.sampling import ClipKind, Samples, SamplingSettings

__all__ = [
    "TIMESTEPS",
    "Answer",
    "Ask",
    "OnProgress",
    "Quality",
    "Sampling",
    "Source",
    "StoredQuality",
    "attack",
    "quality",
]

OnProgress = Callable[[int, int], None]
TIMESTEPS = 1000
"""T of every base that the presets name; needed where the base is not at hand."""


@dataclass(frozen=True)
class Source:
    """The model that is asked.

    Args:
        key: the run it comes from; empty for the model that the attack started from.
        step: the snapshot, in optimizer steps; None for the finished model.
        recipe: the run's, or of a pre-trained model that of the run whose backdoor it is compared under.
    """

    key: str
    step: int | None
    recipe: Recipe

    @property
    def name(self) -> str:
        """What files and people call it."""
        if not self.key:
            return str(placeless(self.recipe.model.base)).removeprefix("packaged:").replace("/", "-")
        return self.key if self.step is None else f"{self.key}-at-{self.step}"

    def folder(self, runs: Path) -> Path:
        """Where its weights lie, or will lie."""
        if not self.key:
            return resolve(self.recipe.model.base)
        inside = "checkpoint" if self.step is None else f"snapshots/{self.step}"
        return runs / self.key / inside

    def subject(self, runs: Path) -> Subject:
        """The model under the recipe's backdoor, as the matrix takes it.

        Raises:
            CheckpointError: the weights are not there.
        """
        recipe = self.recipe
        attack, trigger, target = recipe.designs[0]
        checkpoint = Checkpoint.open(self.folder(runs))
        return Subject(self.name, checkpoint, Design(attack, trigger, target), recipe.poison.rate, True, recipe.data)


class Answer(NamedTuple):
    """What came out.

    Args:
        content: ``status`` and ``estimates``, as a shelf keeps it; of a refusal the reason.
        samples: the images, where it is about images.
        pictures: what to show of them, where that is not their beginning.
    """

    content: dict[str, Any]
    samples: Samples | None = None
    pictures: Images | None = None


@dataclass(frozen=True)
class Ask(ABC):
    """A question to one model. Equal questions to one model are answered once, whichever experiment asks.

    Args:
        source: the model.
    """

    needs_inception: ClassVar[bool] = False

    source: Source

    @property
    @abstractmethod
    def calls(self) -> int:
        """Images through the network, the padding of the last chunk included."""

    @abstractmethod
    def entry(self, subject: Subject) -> Entry:
        """The place of the answer, by everything that decides it."""

    @abstractmethod
    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Do the work."""

    @property
    def identity(self) -> tuple[Any, ...]:
        """What makes two questions one, before there are weights to take a digest of."""
        backdoor = tuple(str(part) for part in self.source.recipe.designs[0])
        own = tuple(str(value) for name, value in vars(self).items() if name != "source")
        return (type(self).__name__, self.source.name, backdoor, own, _sampling(self.source.recipe))

    @property
    def chunk(self) -> int:
        """Images per network call."""
        return self.source.recipe.sampling.chunk_size

    def rows(self, n: int) -> int:
        """Images with the padding of the last chunk."""
        return math.ceil(n / self.chunk) * self.chunk

    def settings(self, clip: ClipKind) -> SamplingSettings:
        """How the recipe samples, under a clipping."""
        plan = self.source.recipe.sampling
        return SamplingSettings(
            sampler=plan.sampler,
            num_inference_steps=plan.num_inference_steps or None,
            clip=clip,
            chunk_size=plan.chunk_size,
            precision=plan.precision,
        )


@dataclass(frozen=True)
class Sampling(Ask):
    """Sample from triggered noise and measure the backdoor, or from clean noise and measure the quality.

    Args:
        kind: of the noise.
        column: sampler and steps.
        clip: what is clipped.
        n: how many images.
    """

    kind: Literal["triggered", "clean"]
    column: Column
    clip: ClipKind
    n: int

    @property
    def calls(self) -> int:
        """Images × network calls, padded."""
        sampler = self.column.sampler
        return self.rows(self.n) * sampler.network_calls(self.column.steps or sampler.default_steps(TIMESTEPS))

    def entry(self, subject: Subject) -> Entry:
        """That of the cell of a matrix."""
        return self._cell(subject).entry

    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Fill the cell of a matrix."""
        return Answer(*self._cell(subject).fill(model, device, told))

    def _cell(self, subject: Subject) -> Cell:
        recipe = self.source.recipe
        is_clean = self.kind == "clean"
        plan = MatrixPlan(
            columns=(self.column,),
            clips=(self.clip,),
            n=LEAST_N if is_clean else self.n,
            quality=(self.column,) if is_clean else (),
            quality_n=self.n if is_clean else KD_LEAST,
            threshold=recipe.evaluation.asr_threshold,
            chunk_size=self.chunk,
            precision=recipe.sampling.precision,
        )
        return Cell(subject, self.column, self.clip, self.kind, plan)


@dataclass(frozen=True)
class Quality(Sampling):
    """Clean images, measured by FID as the paper does, and by what `Sampling` measures. The extra ``fid`` is needed."""

    needs_inception: ClassVar[bool] = True

    def entry(self, subject: Subject) -> Entry:
        """Apart from the same images without an FID."""
        cell = self._cell(subject).entry
        return Entry(cell.title, {**cell.identity, "measures": "fid"})

    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Sample, measure, and put the pictures through Inception."""
        content, samples, _ = super().answer(subject, model, device, told)
        if samples is not None:
            protocol = content["estimates"][0]["protocol"]
            fid = fid_of(samples.images, self.source.recipe, protocol)
            content = {**content, "estimates": [*content["estimates"], *(estimate.to_dict() for estimate in fid)]}
        return Answer(content, samples)


@dataclass(frozen=True)
class StoredQuality(Ask):
    """FID of the clean images that the run has sampled."""

    needs_inception: ClassVar[bool] = True

    @property
    def calls(self) -> int:
        """None: the images are there."""
        return 0

    def entry(self, subject: Subject) -> Entry:
        """By the run's weights and sampling."""
        reference, split = reference_of(self.source.recipe)
        identity = {
            "kind": "fid",
            "checkpoint": subject.digest,
            "data": placeless(reference.to_dict()),
            "split": split,
            "settings": self.settings("off").model_dump(mode="json"),
            "n": self.source.recipe.sampling.n,
        }
        return Entry(f"{subject.model} fid", identity)

    def answer(self, subject: Subject, model: torch.nn.Module, device: torch.device, told: OnProgress) -> Answer:
        """Read the images and put them through Inception."""
        (folder,) = (subject.checkpoint.path.parent / "samples").glob("*-off/clean")
        samples = SampleSet.read(folder)
        fid = fid_of(samples.images, self.source.recipe, samples.protocol)
        return Answer({"status": "done", "estimates": [estimate.to_dict() for estimate in fid]})


def attack(source: Source, clip: ClipKind = "off") -> Sampling:
    """The recipe's own measurement of the backdoor, on a model or under a clipping that its run did not measure."""
    plan = source.recipe.sampling
    return Sampling(
        source, "triggered", Column(sampler=plan.sampler, steps=plan.num_inference_steps or None), clip, plan.n
    )


def quality(source: Source, column: Column | None = None, clip: ClipKind = "off") -> Sampling:
    """The recipe's own measurement of the quality; by FID where the recipe samples enough images for one.

    Args:
        source: the model.
        column: another sampler than the recipe's.
        clip: what is clipped.
    """
    plan, judged = source.recipe.sampling, source.recipe.evaluation
    if judged.quality_n:
        column = column or Column(sampler=judged.quality_sampler, steps=judged.quality_steps)
        return Sampling(source, "clean", column, clip, judged.quality_n)
    column = column or Column(sampler=plan.sampler, steps=plan.num_inference_steps or None)
    kind = Quality if plan.n >= QUOTABLE_N else Sampling
    return kind(source, "clean", column, clip, max(plan.n, KD_LEAST))


def _sampling(recipe: Recipe) -> str:
    """What of a recipe's sampling decides an answer."""
    return str(recipe.sampling.model_dump(mode="json", exclude={"clips", "n"}))
