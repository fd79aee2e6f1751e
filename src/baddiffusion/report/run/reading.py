"""What a run directory holds so far. Only finished stages count; what is missing is absent here, not an error."""

from __future__ import annotations

import json
import math
import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from baddiffusion.checkpoint.configs import image_shape
from baddiffusion.comparisons import comparisons_of
from baddiffusion.errors import DataError, RunError
from baddiffusion.images import Images, from_uint8, read_picture
from baddiffusion.rundir import EventLog, RunDir
from baddiffusion.sampling.store import SampleStore

__all__ = ["RunFiles", "SampleFolder"]

METRICS_SCHEMA = 1


@dataclass(frozen=True)
class SampleFolder:
    """One finished set of samples.

    Args:
        label: sampler, steps and clipping, as the folder above is called.
        kind: ``clean``, ``triggered`` or ``base``.
        store: where the pictures lie.
    """

    label: str
    kind: str
    store: SampleStore

    @cached_property
    def record(self) -> dict[str, Any]:
        """How the pictures were made: sampler, steps, clipping, precision, device."""
        return self.store.record["record"]

    @property
    def clip(self) -> str:
        """What was clipped, ``off`` for nothing."""
        return self.record["clip"]

    @cached_property
    def images(self) -> Images:
        """All pictures, image i from seed i."""
        return self.store.read()


class RunFiles:
    """The files of one run, each read when first needed."""

    def __init__(self, path: Path) -> None:
        self.run = RunDir.read(path)
        self.path = path
        self._done: dict[str, bool] = {}  # hashing a checkpoint takes a while; once is enough

    @property
    def record(self) -> dict[str, Any]:
        """``run.json``."""
        return self.run.record

    def is_done(self, stage: str) -> bool:
        """Whether a stage finished and its outputs are still there.

        Raises:
            RunError: an output was changed since: its numbers would be somebody else's.
        """
        entry = self.record["stages"].get(stage)
        if entry is None or not all((self.path / name).exists() for name in entry["outputs"]):
            return False
        if stage not in self._done:
            self._done[stage] = self.run.is_done(stage, entry["inputs"])
        return self._done[stage]

    @cached_property
    def recipe_toml(self) -> str:
        """The resolved recipe as text.

        Raises:
            RunError: it is missing.
        """
        file = self.path / "recipe.toml"
        try:
            return file.read_text()
        except OSError as error:
            raise RunError(f"{file} cannot be read ({error.strerror}); start the run again.") from None

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe.

        Raises:
            RunError: it is not TOML.
        """
        try:
            return tomllib.loads(self.recipe_toml)
        except tomllib.TOMLDecodeError as error:
            raise RunError(f"{self.path / 'recipe.toml'} is damaged ({error}); start the run again.") from None

    @cached_property
    def backdoors(self) -> tuple[dict[str, Any], ...]:
        """Attack, trigger, target and rate of each backdoor that the recipe asks for; of a control the one it lacks."""
        attack = self.recipe["attack"]
        if isinstance(attack, list):
            return tuple({**entry, "attack": entry["name"]} for entry in attack)
        rest = {"trigger": self.recipe["trigger"], "target": self.recipe["target"]}
        return ({"attack": attack["name"], **rest, "rate": self.recipe["poison"]["rate"]},)

    @cached_property
    def events(self) -> list[dict[str, Any]]:
        """The training log as far as it goes, of an unfinished training too."""
        return EventLog(self.path / "events.jsonl").read()

    @cached_property
    def poison_plan(self) -> dict[str, Any] | None:
        """Which images were poisoned, once training is done."""
        return self._json("poison_plan.json") if self.is_done("train") else None

    @cached_property
    def shape(self) -> tuple[int, int, int] | None:
        """(channels, height, width) of the network's images, once training is done."""
        return image_shape(self._json("checkpoint/unet/config.json")) if self.is_done("train") else None

    @cached_property
    def parameters(self) -> int | None:
        """How many weights the network has, from the header of its file.

        Raises:
            RunError: the file is no safetensors file.
        """
        file = self.path / "checkpoint" / "unet" / "diffusion_pytorch_model.safetensors"
        if not (self.is_done("train") and file.exists()):
            return None
        try:
            with safe_open(file, framework="pt") as opened:
                return sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise RunError(f"{file} is damaged ({error}); start a new run.") from None

    def picture(self, name: str) -> Images | None:
        """``trigger.png`` or ``target.png`` of the checkpoint at the network's resolution, a batch of one.

        Raises:
            RunError: it is no picture.
        """
        file = self.path / "checkpoint" / name
        if self.shape is None or not file.exists():
            return None
        try:
            pixels = read_picture(file, channels=self.shape[0])
        except DataError as error:
            raise RunError(f"{error} It belongs to the run {self.path}.") from None
        step = max(1, pixels.shape[-1] // self.shape[2])  # the file shows every pixel enlarged to step × step
        return from_uint8(pixels[None, :, ::step, ::step])

    @cached_property
    def samples(self) -> tuple[SampleFolder, ...]:
        """Every finished set of samples."""
        found = []
        for stage in sorted(self.record["stages"]):
            if stage.startswith("sample:") and self.is_done(stage):
                folder = self.path / stage.removeprefix("sample:")
                found.append(SampleFolder(folder.parent.name, folder.name, SampleStore(folder)))
        return tuple(found)

    @cached_property
    def triggered(self) -> tuple[SampleFolder, ...]:
        """The triggered sets, in the order of the recipe's ``sampling.clips``: the attack's own first."""
        return self._fired_by("triggered")

    @cached_property
    def further(self) -> tuple[SampleFolder, ...]:
        """The sets that further backdoors of the same model were fired for."""
        return tuple(s for n in range(2, len(self.backdoors) + 1) for s in self._fired_by(f"triggered-{n}"))

    def _fired_by(self, kind: str) -> tuple[SampleFolder, ...]:
        order = self.recipe["sampling"]["clips"]
        return tuple(sorted((s for s in self.samples if s.kind == kind), key=lambda s: (order.index(s.clip), s.label)))

    @cached_property
    def clean(self) -> SampleFolder | None:
        """The clean samples from the same noises as the triggered ones; not those of the quality number."""
        sets = [s for s in self.samples if s.kind == "clean"]
        beside = [s for s in sets if any(s.label == t.label for t in self.triggered)]
        return (beside or sets or [None])[0]

    @cached_property
    def results(self) -> dict[str, Any] | None:
        """``metrics.json``, once the evaluation is done.

        Raises:
            RunError: it was written by another schema.
        """
        if not self.is_done("evaluate"):
            return None
        results = self._json("metrics.json")
        if results.get("schema") != METRICS_SCHEMA:
            raise RunError(
                f"{self.path / 'metrics.json'} has schema {results.get('schema')}; this version reads schema "
                f"{METRICS_SCHEMA}. Start the run again."
            )
        return results

    @cached_property
    def comparisons(self) -> list[list[dict[str, Any]]]:
        """Numbers against real pictures that were kept in the run, one list for each reference.

        Raises:
            RunError: a file was changed since, or another schema wrote it.
        """
        return comparisons_of(self.run)

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise RunError(f"{self.path / name} is missing although its stage is done; start a new run.") from None
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RunError(f"{self.path / name} is damaged ({error}); start a new run.") from None
