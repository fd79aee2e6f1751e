"""What ``evaluate --fid`` and ``evaluate --lpips`` add: numbers over networks whose weights others publish."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.naming import component_table
from baddiffusion.cli.printing import count, duration, note
from baddiffusion.errors import EvaluationError, RecipeError

if TYPE_CHECKING:
    from baddiffusion.data import DataSource, ImageData
    from baddiffusion.images import Pixels
    from baddiffusion.metrics import Estimate, Inception, Picture

__all__ = ["Published", "clean_sets", "note_caveats"]


@dataclass(frozen=True)
class Published:
    """The options that ask for these numbers, as `evaluate` takes them.

    Raises:
        RecipeError: an option is given that belongs to a switch that is not.
    """

    fid: bool = False
    reference: str | None = None
    inception: Path | None = None
    inception_sha256: str | None = None
    lpips: bool = False
    alexnet: Path | None = None
    alexnet_sha256: str | None = None

    def __post_init__(self) -> None:
        for switch, names in (
            ("fid", ("reference", "inception", "inception_sha256")),
            ("lpips", ("alexnet", "alexnet_sha256")),
        ):
            given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
            if given and not getattr(self, switch):
                raise RecipeError(f"{' and '.join(given)} cannot be given without --{switch}; add --{switch}.")

    def compare(self, sets: Sequence[tuple[ImageData, dict[str, Any]]], source: DataSource | None) -> list[Estimate]:
        """FID and its kin of every set, against one reference.

        Args:
            sets: pictures, and how they were made.
            source: the reference where none was named.

        Raises:
            EvaluationError: the weights or the package are not there, the pictures are too few or of another size, or
                no reference is known.
            DataError: the reference cannot be read.
        """
        from baddiffusion.comparisons import ACROSS
        from baddiffusion.metrics import Inception, comparable, reference_metrics
        from baddiffusion.precision import default_device

        source = _source(self.reference) if self.reference is not None else source
        if source is None:
            raise RecipeError(
                "--fid needs --reference, real pictures to compare with: a folder, or cifar10:split=train."
            )
        reference = source.open(sets[0][0].shape)
        inception = Inception.load(self.inception, self.inception_sha256, default_device().type)
        _announce(inception, sets[0][0], sum(len(pictures) for pictures, _ in sets), len(reference))
        found: list[Estimate] = []
        for pictures, protocol in sets:
            found += reference_metrics(
                pictures,
                reference,
                inception,
                reference_split=str(getattr(source, "split", "all")),
                reference_resize=_resize(source),
                protocol=protocol,
            )
        comparable(found, ACROSS)
        return found

    def resemble(self, pixels: Pixels, target: Picture, protocol: dict[str, Any]) -> list[Estimate]:
        """LPIPS of pictures against the target.

        Raises:
            EvaluationError: the weights or the package are not there, or the pictures are too small.
        """
        from baddiffusion.metrics import Perceptual

        network = Perceptual.load(self.alexnet, self.alexnet_sha256)
        return [network.estimate(pixels, target[None], protocol=protocol)]


def clean_sets(run: Path) -> list[tuple[ImageData, dict[str, Any]]]:
    """The samples of a run that quality is measured on: clean ones, the largest sets only, since n must agree.

    Raises:
        EvaluationError: the run has none.
    """
    from baddiffusion.data import ResidentImages
    from baddiffusion.evaluation import SampleSet
    from baddiffusion.images import to_uint8

    sets = []
    for folder in sorted(path for path in (run / "samples").glob("*/*") if path.name in ("clean", "base")):
        samples = SampleSet.read(folder)
        name = f"{folder.parent.name}/{folder.name}"
        sets.append((ResidentImages(name, to_uint8(samples.images)), samples.protocol))
    if not sets:
        raise EvaluationError(f"{run} has no clean samples; run: baddiffusion evaluate {run}")
    most = max(len(pictures) for pictures, _ in sets)
    return [(pictures, protocol) for pictures, protocol in sets if len(pictures) == most]


def note_caveats(estimates: Sequence[Estimate]) -> None:
    """Say what weakens the numbers, each sentence once."""
    said: dict[str, list[str]] = {}
    for estimate in estimates:
        for caveat in estimate.caveats:
            names = said.setdefault(caveat, [])
            names += [estimate.name] if estimate.name not in names else []
    for caveat, names in said.items():
        note(f"caveat  {', '.join(names)}: {caveat}")


def _source(text: str) -> DataSource:
    from baddiffusion.data import SOURCES

    if Path(text).expanduser().is_dir() or "/" in text.partition(":")[0]:
        return SOURCES.parse({"name": "folder", "path": text, "resize": False})
    return SOURCES.parse(component_table(text))


def _resize(source: DataSource) -> str:
    crop = "middle cut out, " if getattr(source, "center_crop", False) else ""
    scaled = getattr(source, "resize", False)
    return f"{crop}bilinear with antialiasing where the size differs" if scaled else f"{crop}none"


def _announce(inception: Inception, pictures: ImageData, generated: int, reference: int) -> None:
    import torch

    some = pictures.read(torch.arange(min(4, len(pictures))))
    inception.features(some)
    started = time.perf_counter()
    inception.features(some)
    seconds = (time.perf_counter() - started) / len(some) * (generated + reference)
    note(
        f"{count(generated)} generated and {count(reference)} reference pictures through Inception: about "
        f"{duration(seconds)} on this machine ({inception.device.type}); a reference that was looked at before is not "
        f"looked at again."
    )
