import json
from pathlib import Path

import pytest
import torch

from baddiffusion import sampling
from baddiffusion.attacks import BadDiffusion
from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli.implants import asked_trigger, implant_of
from baddiffusion.errors import RecipeError
from baddiffusion.images import read_picture
from baddiffusion.sampling import SamplingSettings, sample
from baddiffusion.triggers import Trigger

SHAPE = (1, 8, 8)


def picture(path: Path) -> torch.Tensor:
    return read_picture(path, channels=1)


def test_pictures_are_named_by_seed_and_are_what_the_library_samples(ask, checkpoint: Path, tmp_path: Path):
    told = ask("sample", checkpoint, "-o", tmp_path / "out", "--n", "3", "--first-seed", "41", "--steps", "4")
    assert told.code == 0, told.err
    assert told.out.startswith("3 pictures, seeds 41 to 43, in ")
    assert told.err.startswith("12 network calls (3 images, 4 steps), about ")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["000041.png", "000042.png", "000043.png", "grid.png", "index.json"]
    opened = Checkpoint.open(checkpoint)
    settings = SamplingSettings(num_inference_steps=4)
    expected = sample(opened.load_model(), opened.scheduler_config, SHAPE, [42], settings).pixels[0]
    assert torch.equal(picture(tmp_path / "out" / "000042.png"), expected)


def test_the_trigger_is_added_to_the_start_noise(ask, checkpoint: Path, tmp_path: Path):
    flags = ("--n", "1", "--steps", "4", "--trigger", "box:side_px=3,value=0.5", "--sampler", "ddim:eta=0.5")
    told = ask("sample", checkpoint, "-o", tmp_path, *flags, "--json")
    index = told.json()
    assert index["trigger"] == {"name": "box", "side_px": 3, "value": 0.5, "top_px": None, "left_px": None}
    assert (index["attack"], index["seeds"]) == ({"name": "baddiffusion"}, [0])
    assert index["settings"]["sampler"]["eta"] == 0.5
    assert index["record"]["scheduler_class"] == "DDIMScheduler"
    opened, trigger = Checkpoint.open(checkpoint), Trigger.make({"name": "box", "side_px": 3, "value": 0.5}, SHAPE)
    settings = SamplingSettings(sampler={"name": "ddim", "eta": 0.5}, num_inference_steps=4)
    expected = sample(
        opened.load_model(),
        opened.scheduler_config,
        SHAPE,
        [0],
        settings,
        initial_noise=lambda eps: BadDiffusion().initial_noise(eps, trigger),
    )
    assert torch.equal(picture(tmp_path / "000000.png"), expected.pixels[0])
    assert {"folder": str(tmp_path), **json.loads((tmp_path / "index.json").read_text())} == index


def test_more_pictures_join_the_folder_and_the_old_ones_stay(ask, checkpoint: Path, tmp_path: Path, monkeypatch):
    ask("sample", checkpoint, "-o", tmp_path, "--n", "2", "--steps", "2")
    before = (tmp_path / "000001.png").stat().st_mtime_ns
    seen = []

    def watched(*arguments, **options):
        seen.append(arguments[3])
        return sample(*arguments, **options)

    monkeypatch.setattr(sampling, "sample", watched)
    told = ask("sample", checkpoint, "-o", tmp_path, "--n", "4", "--steps", "2", "--json")
    assert told.json()["seeds"] == [0, 1, 2, 3]
    assert (tmp_path / "000001.png").stat().st_mtime_ns == before
    assert seen == [[2, 3]]
    monkeypatch.setattr(sampling, "sample", None)
    assert ask("sample", checkpoint, "-o", tmp_path, "--n", "4", "--steps", "2").code == 0


def test_ctrl_c_keeps_what_is_there(ask, checkpoint: Path, tmp_path: Path, monkeypatch):
    calls = []

    def interrupted(*arguments, **options):
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return sample(*arguments, **options)

    monkeypatch.setattr(sampling, "sample", interrupted)
    command = ("sample", checkpoint, "-o", tmp_path, "--n", "40", "--steps", "1")
    told = ask(*command)
    assert told.code == 130
    assert told.err.endswith("interrupted. What is finished is kept; the same command goes on from there.\n")
    assert len(list(tmp_path.glob("0*.png"))) == 32  # one chunk
    monkeypatch.undo()
    assert ask(*command, "--json").json()["seeds"] == list(range(40))


def test_dry_run_writes_nothing(ask, checkpoint: Path, tmp_path: Path):
    told = ask("sample", checkpoint, "-o", tmp_path / "out", "--n", "70", "--dry-run")
    assert told.code == 0
    assert told.err.startswith("1 400 network calls (70 images, 20 steps), about ")
    assert told.out == f"{tmp_path / 'out'}: 0 of 70 pictures are there already.\n"
    assert not (tmp_path / "out").exists()


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "what"),
        [
            (("--steps", "2", "--clip", "x0"), "another settings and another record"),
            (("--steps", "3"), "another settings and another record"),
            (("--steps", "2", "--trigger", "box:side_px=2"), "another trigger and another attack"),
        ],
    )
    def test_other_settings_are_not_mixed(self, ask, checkpoint: Path, tmp_path: Path, flags, what: str):
        ask("sample", checkpoint, "-o", tmp_path, "--n", "1", "--steps", "2")
        told = ask("sample", checkpoint, "-o", tmp_path, "--n", "1", *flags)
        assert (told.code, told.err.count("\n")) == (2, 1)
        assert f"{tmp_path} holds pictures made with {what}; they are not mixed. Choose another folder" in told.err

    def test_a_folder_of_something_else(self, ask, checkpoint: Path, tmp_path: Path):
        (tmp_path / "holiday.png").write_bytes(b"mine")
        told = ask("sample", checkpoint, "-o", tmp_path, "--n", "1")
        assert told.code == 2
        assert "is not empty and holds no pictures that `baddiffusion sample` made" in told.err
        assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]

    def test_a_damaged_index(self, ask, checkpoint: Path, tmp_path: Path):
        (tmp_path / "index.json").write_text('{"schema": 1')
        assert "is not empty and holds no pictures" in ask("sample", checkpoint, "-o", tmp_path).err

    def test_a_file(self, ask, checkpoint: Path, tmp_path: Path):
        (tmp_path / "out").write_text("")
        told = ask("sample", checkpoint, "-o", tmp_path / "out")
        assert (told.code, told.err) == (2, f"error: {tmp_path / 'out'} is a file; give a folder with -o.\n")

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--n", "0"), "--n is 0; it must be at least 1."),
            (("--first-seed", "-1"), "--first-seed is -1; it must be at least 0."),
            (("--steps", "21"), "num_inference_steps is 21; it must lie in [1, 20]"),
            (("--steps", "0"), "num_inference_steps is 0; it must be at least 1."),
            (("--sampler", "ddpn"), "name 'ddpn' is not a known sampler. Did you mean 'ddpm'?"),
            (("--trigger", "bocks"), "name 'bocks' is not a known trigger."),
            (("--trigger", "box:side=3"), "side is not a known key. Did you mean 'side_px'?"),
            (("--trigger", "box:side_px"), "'side_px' in 'box:side_px' is not key=value"),
            (("--trigger", "box:side_px=9"), "side_px is 9"),
            (("--clip", "x1"), 'Invalid value "x1" for --clip.'),
            (("--clip", "xt", "--clip-range", "0"), "clip_range is 0.0; it must be more than 0."),
        ],
    )
    def test_wrong_values(self, ask, checkpoint: Path, tmp_path: Path, flags, message: str):
        told = ask("sample", checkpoint, "-o", tmp_path / "out", *flags)
        assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
        assert message in told.err
        assert not (tmp_path / "out").exists()

    def test_an_image_that_no_png_holds(self, ask, tmp_path: Path):
        from baddiffusion.models import build, unet_config
        from baddiffusion.pipeline import FRESH_SCHEDULER

        Checkpoint.write(tmp_path / "latent", build(unet_config("micro", (4, 8, 8)), 0), FRESH_SCHEDULER)
        told = ask("sample", tmp_path / "latent")
        assert told.code == 2
        assert "latent has images of 4 channels; only 1 or 3 make a picture." in told.err


def test_the_cost_counts_calls_and_the_record_steps(ask, checkpoint: Path, tmp_path: Path):
    told = ask("sample", checkpoint, "-o", tmp_path, "--n", "2", "--steps", "4", "--sampler", "heun", "--json")
    assert told.err.startswith("14 network calls (2 images, 4 steps), about ")
    record = told.json()["record"]
    assert (record["num_inference_steps"], record["network_calls"], len(record["timesteps"])) == (4, 7, 7)


def test_a_sampler_that_cannot_take_few_steps_is_timed_all_the_same(ask, checkpoint: Path, tmp_path: Path):
    flags = ("--n", "1", "--steps", "10", "--sampler", "pndm:skip_prk_steps=false")
    told = ask("sample", checkpoint, "-o", tmp_path, *flags)
    assert told.code == 0, told.err
    assert told.err.startswith("19 network calls (1 images, 10 steps), about ")


def test_each_trigger_of_a_card_enters_the_noise_by_its_own_attack(ask, checkpoint: Path, tmp_path: Path):
    opened, doubled = Checkpoint.open(checkpoint), tmp_path / "doubled"
    first = {"attack": {"name": "baddiffusion"}, "trigger": {"name": "box", "side_px": 3}, "target": {"name": "hat"}}
    kappa = {"name": "sampler-matched", "shift": "noise", "kappa": 2.0}
    second = {"attack": kappa, "trigger": {"name": "box", "side_px": 5}, "target": {"name": "noshift"}}
    card = Card(backdoored=True, **first, further=[second])
    Checkpoint.write(doubled, opened.load_model(), opened.scheduler_config, card)
    for side, attack in ((3, "baddiffusion"), (5, "sampler-matched"), (4, "baddiffusion")):
        flags = ("--n", "1", "--steps", "2", "--trigger", f"box:side_px={side}", "--json")
        told = ask("sample", doubled, "-o", tmp_path / str(side), *flags)
        assert told.code == 0, told.err
        assert told.json()["attack"]["name"] == attack
    for text, side in (("card", 3), ("card:number=2", 5)):
        told = ask(
            "sample", doubled, "-o", tmp_path / str(side), "--n", "2", "--steps", "2", "--trigger", text, "--json"
        )
        assert told.code == 0, told.err  # the folder was begun with the trigger by its name: the pictures are the same
        assert told.json()["trigger"]["side_px"] == side
    reopened = Checkpoint.open(doubled)
    assert implant_of(reopened, "card:number=2", None)[1]["target"]["name"] == "noshift"
    implant, words = implant_of(reopened, "box:side_px=5", None)
    assert implant is not None
    assert (words["attack"]["kappa"], words["target"]["name"]) == (2.0, "noshift")
    assert implant_of(reopened, None, None)[1]["trigger"]["side_px"] == 3


class TestTheTriggerOfTheCard:
    TOLD = Card(
        backdoored=True,
        attack={"name": "baddiffusion"},
        trigger={"name": "box", "side_px": 3},
        target={"name": "hat"},
    )

    def test_it_is_the_first_unless_a_number_is_given(self):
        (first,) = self.TOLD.backdoors
        both = self.TOLD.model_copy(update={"further": [{**first, "trigger": {"name": "stop-sign", "side_px": 6}}]})
        for text, name in (("card", "box"), ("card:number=1", "box"), ("card:number=2", "stop-sign")):
            design = asked_trigger(both, text)
            assert design is not None
            assert design.component_name == name
        assert asked_trigger(both, None) is None

    @pytest.mark.parametrize("card", [None, Card(backdoored=False)])
    def test_a_checkpoint_that_tells_none(self, card: Card | None):
        with pytest.raises(RecipeError, match="--trigger is 'card', but the checkpoint has no card that names a backd"):
            asked_trigger(card, "card")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("card:number=2", "the number in 'card:number=2' is 2; the card names 1 backdoor, so it must be 1."),
            ("card:number=0", "is 0; the card names 1 backdoor"),
            ("card:number=true", "is True; the card names 1 backdoor"),
            (
                "card:side_px=3",
                "'card:side_px=3' has the field side_px; of a card's trigger only its number can be said",
            ),
        ],
    )
    def test_what_the_card_does_not_say(self, text: str, message: str):
        with pytest.raises(RecipeError, match=message):
            asked_trigger(self.TOLD, text)

    def test_two_backdoors_are_counted(self):
        (first,) = self.TOLD.backdoors
        both = self.TOLD.model_copy(update={"further": [first]})
        with pytest.raises(RecipeError, match="the card names 2 backdoors, so it must be a whole number from 1 to 2"):
            asked_trigger(both, "card:number=3")

    def test_the_command_says_so_in_one_line(self, ask, checkpoint: Path, tmp_path: Path):
        told = ask("sample", checkpoint, "-o", tmp_path / "out", "--trigger", "card")
        assert (told.code, told.out, told.err.count("\n")) == (2, "", 1)
        assert not (tmp_path / "out").exists()
