from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from baddiffusion.attacks import ATTACKS
from baddiffusion.card import Card, RepairNote
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.data import ResidentImages
from baddiffusion.defending import (
    Yardstick,
    clip_ways,
    keep,
    method_named,
    own_sampling,
    quality_sampling,
    repaired_card,
    standings,
)
from baddiffusion.defenses import Detection, Repaired, Spent
from baddiffusion.defenses.calibration import Calibration, CleanScores, settings_digest
from baddiffusion.errors import CheckpointError, RecipeError, UnknownComponent
from baddiffusion.models import build, unet_config
from baddiffusion.poisoning import Implant
from baddiffusion.report.sections.defending import detection_section
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.sampling.viewed import sample_through
from baddiffusion.targets import TARGETS
from baddiffusion.triggers import Trigger
from short_methods import SCHEDULER, SHAPE, sealed

SPENT = Spent(12, 0.5, "cpu", "float32")
TOLD = {
    "backdoored": True,
    "attack": {"name": "baddiffusion"},
    "trigger": {"name": "box", "side_px": 4},
    "target": {"name": "corner", "side_px": 4},
    "poison_rate": 0.1,
}


def implant(attack: str = "baddiffusion") -> Implant:
    trigger = Trigger.make({"name": "box", "side_px": 4}, SHAPE)
    return Implant(ATTACKS.parse(attack), trigger, TARGETS.parse({"name": "corner", "side_px": 4}).draw(trigger))


def yardstick(attack: str = "baddiffusion", **changes) -> Yardstick:
    fast = SamplingSettings(num_inference_steps=2, chunk_size=4, precision="float32")
    asked = {
        "implant": implant(attack),
        "attacked": fast,
        "n": 3,
        "ordinary": fast.model_copy(update={"num_inference_steps": 1, "chunk_size": 256}),
        "quality_n": 256,
        "reference": None,
    }
    return Yardstick(**{**asked, **changes})


class TestYardstick:
    def test_an_attack_with_its_own_sampler_is_measured_under_that(self):
        model, own = sealed(), implant("trojdiff")
        effect = yardstick("trojdiff").measure(model, "before", "cpu")
        network, settings = model.load_model(), yardstick().attacked

        def start(eps):
            return own.attack.initial_noise(eps, own.trigger)

        request = (network, model.scheduler_config, SHAPE, range(3), settings)
        view = own.attack.view(own.trigger)
        assert view is not None
        expected = sample_through(view, *request, initial_noise=start)
        assert torch.equal(effect.images["triggered"], expected.images)
        assert not torch.equal(effect.images["triggered"], sample(*request, initial_noise=start).images)
        assert effect.estimates[0].protocol["scheduler"] == "DDPMScheduler, modified by the attack"

    def test_what_is_said_to_be_called_is_called(self, monkeypatch: pytest.MonkeyPatch):
        model, calls = sealed(), []
        network = model.load_model()
        network.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
        monkeypatch.setattr("baddiffusion.checkpoint.SealedCheckpoint.load_model", lambda self, device: network)
        effect = yardstick().measure(model, "before", "cpu")
        assert sum(calls) == effect.network_calls == yardstick().calls(model) == 2 * 4 + 256

    def test_without_a_backdoor_only_quality_is_measured(self):
        assert list(yardstick(implant=None).passes) == []
        assert yardstick(implant=None).calls(sealed()) == 0
        pixels = torch.zeros(256, *SHAPE, dtype=torch.uint8)
        assert list(yardstick(implant=None, reference=ResidentImages("black", pixels)).passes) == ["clean"]

    def test_too_little_to_compare_with(self):
        few = ResidentImages("few", torch.zeros(255, *SHAPE, dtype=torch.uint8))
        with pytest.raises(RecipeError, match=r"few leaves 255 real pictures .* at least 256 are needed"):
            yardstick(reference=few)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n": 0}, "n is 0; it must be at least 1"),
            ({"quality_n": 255}, "quality_n is 255; it must be at least 256"),
            ({"threshold": 1.0}, r"threshold is 1\.0; it must lie in \(0, 1\)"),
        ],
    )
    def test_what_is_out_of_bounds(self, changes, message):
        with pytest.raises(RecipeError, match=message):
            yardstick(**changes)


class TestSampling:
    def test_the_recipe_on_the_card_says_how(self):
        plan = {"sampler": {"name": "ddim", "eta": 0.5}, "num_inference_steps": 40}
        quality = {"quality_sampler": "ddpm", "quality_steps": 30}
        card = Card(backdoored=False, recipe={"sampling": plan, "evaluation": quality})
        own, ordinary = own_sampling(card), quality_sampling(card, 1000)
        assert (own.sampler.to_dict()["eta"], own.num_inference_steps, own.clip) == (0.5, 40, "off")
        assert (ordinary.sampler.component_name, ordinary.num_inference_steps) == ("ddpm", 30)

    def test_without_a_card(self):
        assert own_sampling(None) == SamplingSettings()
        ordinary = quality_sampling(None, 1000)
        assert (ordinary.sampler.component_name, ordinary.num_inference_steps) == ("ddim", 50)
        assert quality_sampling(None, 20).num_inference_steps == 20


class TestKeeping:
    def repaired(self) -> Repaired:
        return Repaired("fine-tuning-short", {"name": "fine-tuning", "steps": 3}, sealed(1), SPENT, seed=7)

    def opened(self, path: Path, card: Card | None) -> Checkpoint:
        return Checkpoint.write(path, build(unet_config("micro", SHAPE), 0), SCHEDULER, card)

    def test_a_card_that_told_of_a_backdoor_goes_on_telling(self, tmp_path: Path):
        parent = self.opened(tmp_path / "parent", Card(**TOLD, metrics=[{"name": "asr"}]))
        kept = keep(parent, self.repaired(), tmp_path / "kept")
        assert kept.card is not None
        assert kept.card.repair == RepairNote(
            parent=parent.digest,
            method="fine-tuning-short",
            settings={"name": "fine-tuning", "steps": 3},
            seed=7,
        )
        assert (kept.card.backdoored, kept.card.trigger, kept.card.metrics) == (True, TOLD["trigger"], [])
        headline = kept.card.headline
        assert headline.startswith("**BACKDOORED**, then repaired with `fine-tuning-short`: trigger `box (side_px 4)`")
        assert headline in kept.card.readme()
        assert "do not deploy it on the strength of this card" in kept.card.readme()
        assert f"- repaired: with `fine-tuning-short`, from checkpoint `{parent.digest}`" in kept.card.readme()
        assert torch.equal(kept.sealed().weights["conv_in.weight"], sealed(1).weights["conv_in.weight"])
        assert kept.scheduler_config == parent.scheduler_config

    def test_a_clean_card_and_none(self, tmp_path: Path):
        clean = repaired_card(self.opened(tmp_path / "clean", Card(backdoored=False)), self.repaired())
        assert clean.headline.endswith("repaired with `fine-tuning-short` all the same: a control.")
        untold = repaired_card(self.opened(tmp_path / "untold", None), self.repaired())
        assert untold.headline.endswith("whether it ever held a backdoor is not known.")
        assert untold.repair is not None
        assert not untold.repair.is_told

    def test_a_card_names_no_place_of_this_machine(self, tmp_path: Path):
        done = Repaired("x", {"name": "x", "weights": str(tmp_path / "secret" / "file.pth")}, sealed(1), SPENT, seed=0)
        card = repaired_card(self.opened(tmp_path / "parent", None), done)
        assert card.repair is not None
        assert card.repair.settings["weights"] == "file.pth"

    def test_nothing_is_overwritten(self, tmp_path: Path):
        parent = self.opened(tmp_path / "parent", None)
        with pytest.raises(CheckpointError, match="exists; nothing is overwritten"):
            keep(parent, self.repaired(), tmp_path / "parent")

    def test_a_card_without_a_repair_says_nothing_of_it(self):
        told = json.loads(Card(**TOLD).to_json())
        assert "repair" not in told
        assert Card(**told) == Card(**TOLD)
        with_note = Card(**TOLD, repair=RepairNote(parent="a", method="b"))
        assert Card(**json.loads(with_note.to_json())) == with_note

    @pytest.mark.parametrize("name", ["clean", "backdoored"])
    def test_the_packaged_cards_are_what_they_were(self, name: str):
        import baddiffusion

        path = Path(baddiffusion.__file__).parent / "assets" / "models" / name
        card = Checkpoint.open(path).card
        assert card is not None
        assert card.to_json() == (path / "card.json").read_text()
        assert (
            card.readme(sorted(p.name for p in path.glob("*.png"))).split("## Origin")[1]
            in (path / "README.md").read_text()
        )


class TestStanding:
    detection = Detection("terd", {"name": "terd"}, "measured", {"kl": 2.0}, SPENT, 0)

    def calibration(self, *scores: float) -> Calibration:
        models = tuple(CleanScores(str(index), {"kl": score}) for index, score in enumerate(scores))
        return Calibration("terd", settings_digest({"name": "terd"}), models)

    def test_beside_clean_models(self):
        (standing,) = standings(self.detection, self.calibration(1.0, 1.0, 1.1))
        assert (standing.score, standing.n, standing.p_value, standing.is_above) == ("kl", 3, 0.25, True)
        (standing,) = standings(self.detection, self.calibration(1.0, 2.0, 3.0), "2")
        assert (standing.n, standing.p_value, standing.is_above) == (2, 2 / 3, False)
        assert standing.to_dict()["limit"] == standing.limit

    def test_what_is_inconclusive_has_no_standing(self):
        nothing = Detection("terd", {"name": "terd"}, "inconclusive", {}, SPENT, 0, notes=("it diverged",))
        assert standings(nothing, self.calibration(1.0, 2.0)) == ()
        results = {"model": "m", "detection": nothing.to_dict(), "standing": None, "against_target": []}
        section = detection_section(
            {**results, "not_judged": "the method came to no number", "trigger": None, "target": None}
        )
        assert "**inconclusive**" in section
        assert "Note: it diverged." in section
        assert "clean" not in section


class TestNames:
    def test_a_part_is_changed_without_being_named_again(self):
        method = method_named("elijah-removal", {"inversion": {"iterations": 2}})
        assert method.to_dict()["inversion"]["iterations"] == 2
        assert method.to_dict()["inversion"]["ode_iterations"] == 10
        assert method.label == "elijah-removal-short"

    def test_presets(self):
        assert method_named("TERD-trojdiff").to_dict()["gain"] == "estimated"
        with pytest.raises(UnknownComponent, match=r"'terd-trojdif' is not a known .* Did you mean 'terd-trojdiff'\?"):
            method_named("terd-trojdif")

    def test_ways_of_clipping(self):
        assert clip_ways(["x0", "off", "off"], [1.0]) == [("x0", 1.0), ("off", None)]
