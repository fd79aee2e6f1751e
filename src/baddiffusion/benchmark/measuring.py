"""How a benchmark measures a model around a repair: the same before, after, and for every method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from baddiffusion.benchmark.contenders import Contender, plan_table, select
from baddiffusion.benchmark.scan_detector import Scan
from baddiffusion.card import placeless
from baddiffusion.defending import CleanPictures, Yardstick
from baddiffusion.metrics import KD_LEAST
from baddiffusion.sampling import SamplingSettings
from baddiffusion.zoo import Specimen

__all__ = ["Measuring", "own_settings"]


@dataclass(frozen=True)
class Measuring:
    """What is measured.

    Args:
        n: triggered pictures.
        quality_n: ordinary pictures.
        data_share: of the training data, for methods that work on clean pictures.
        scan: the scan before and after.
    """

    n: int
    quality_n: int
    data_share: float
    scan: Scan

    @classmethod
    def planned(cls, short: bool = False) -> Measuring:
        """As the packaged table says."""
        (scan,) = select(["scan"], short)
        assert isinstance(scan.method, Scan)
        return cls(**plan_table()["measuring"], scan=scan.method)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` makes an equal one of it."""
        return {"n": self.n, "quality_n": self.quality_n, "data_share": self.data_share, "scan": self.scan.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Measuring:
        """Read what `to_dict` wrote."""
        scan = Contender.from_dict({"settings": values["scan"], "budget": "published", "score": []}).method
        assert isinstance(scan, Scan)
        return cls(values["n"], values["quality_n"], values["data_share"], scan)

    def pictures(self, specimen: Specimen, seed: int) -> CleanPictures:
        """Deal the training data out: a share for the method, another part for quality.

        Raises:
            DataError: the data set is not on this machine.
        """
        truth = specimen.truth
        return CleanPictures.draw(truth.recipe.data, truth.shape, self.data_share, seed)

    def data_words(self, specimen: Specimen) -> dict[str, Any]:
        """The same as part of an identity."""
        return {"source": placeless(specimen.truth.recipe.to_dict())["data"], "share": self.data_share}

    def yardstick(self, specimen: Specimen, clean: CleanPictures) -> Yardstick:
        """The attack's own sampler for triggered noises, the recipe's quality sampler for ordinary ones.

        Where the data set is too small to leave enough pictures to compare with, quality is not measured.
        """
        own, ordinary = own_settings(specimen)
        rest = clean.rest if clean.rest is not None and len(clean.rest) >= KD_LEAST else None
        return Yardstick(
            implant=specimen.truth.implant,
            attacked=own,
            n=self.n,
            ordinary=ordinary,
            quality_n=self.quality_n,
            reference=rest,
        )


def own_settings(specimen: Specimen) -> tuple[SamplingSettings, SamplingSettings]:
    """How triggered noises are sampled, and how ordinary ones: as the recipe of the model says, unclipped."""
    attacked, quality = specimen.truth.recipe.sampling, specimen.truth.recipe.evaluation
    return (
        SamplingSettings(sampler=attacked.sampler, num_inference_steps=attacked.num_inference_steps or None),
        SamplingSettings(sampler=quality.quality_sampler, num_inference_steps=quality.quality_steps),
    )
