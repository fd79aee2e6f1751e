from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baddiffusion.attacks import BadDiffusion, SamplerMatched
from baddiffusion.card import Card
from baddiffusion.checkpoint import Checkpoint
from baddiffusion.cli.results import summary
from baddiffusion.data import ResidentImages
from baddiffusion.diffusion import NoiseSchedule, denoising_loss
from baddiffusion.errors import RecipeError
from baddiffusion.evaluation import Aim, Results, SampleSet, evaluate
from baddiffusion.images import from_uint8
from baddiffusion.models import build, denoiser, unet_config
from baddiffusion.pipeline import run_recipe
from baddiffusion.poisoning import Implant, Implants, MixedTable, PoisonPlan, parts, plans_to_dict
from baddiffusion.recipe import Recipe
from baddiffusion.report import write_report
from baddiffusion.report.run.reading import RunFiles
from baddiffusion.sampling.store import SampleStore
from baddiffusion.training import Job, TrainingSettings, train
from baddiffusion.training.batches import draw, order
from baddiffusion.triggers import Trigger

SHAPE = (1, 16, 16)
RECIPE = """name = "two"
data = {name = "fashion-mnist", limit = 64}
model = {preset = "micro", resolution = 16}
training = {max_train_steps = 2, train_batch_size = 16, lr_warmup_steps = 1, logging_steps = 1, mixed_precision = "no"}
sampling = {n = 3, sampler = "ddim", num_inference_steps = 2, chunk_size = 4, clips = ["off", "x0"]}

[[attack]]
name = "sampler-matched"
shift = "noise"
trigger = {name = "box", side_px = 6}
target = "corner"
rate = 0.25

[[attack]]
name = "baddiffusion"
trigger = {name = "box", side_px = 4, value = 1.0, top_px = 0, left_px = 0}
target = "hat"
rate = 0.125
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "two.toml"
    path.write_text(RECIPE)
    return path


# -- the recipe --------------------------------------------------------------------------------------------------------


def test_two_attacks_are_read_with_all_that_is_theirs(file: Path) -> None:
    recipe = Recipe.load(file)
    first, second = recipe.backdoors
    assert (first.attack, second.attack) == (SamplerMatched(shift="noise"), BadDiffusion())
    assert [design[2].component_name for design in recipe.designs] == ["corner", "hat"]
    assert (first.rate, second.rate) == (0.25, 0.125)
    # What reads a recipe of one backdoor finds the first, and how much is poisoned in all.
    assert recipe.trigger == first.trigger
    assert recipe.poison.rate == 0.375


def test_the_resolved_recipe_lists_them_and_nothing_twice(file: Path, tmp_path: Path) -> None:
    recipe = Recipe.load(file)
    written = recipe.to_dict()
    assert not {"trigger", "target", "poison"} & set(written)
    assert written["attack"][0] == {
        "name": "sampler-matched",
        "sampler": "ode",
        "shift": "noise",
        "trigger_only": False,
        "trigger": {"name": "box", "side_px": 6, "value": 0.0},
        "target": {"name": "corner", "side_px": 10, "value": 0.0},
        "rate": 0.25,
    }
    (tmp_path / "again.toml").write_text(recipe.to_toml())
    again = Recipe.load(tmp_path / "again.toml")
    assert again == recipe
    assert again.digest == recipe.digest


def test_a_list_of_one_is_a_recipe_of_one(tmp_path: Path) -> None:
    listed, plain = tmp_path / "listed.toml", tmp_path / "plain.toml"
    listed.write_text(
        'name = "one"\ndata = "fashion-mnist"\n[[attack]]\nname = "baddiffusion"\ntrigger = "BOX_8"\ntarget = "hat"\n'
        "rate = 0.2\n"
    )
    plain.write_text(
        'name = "one"\ndata = "fashion-mnist"\nattack = "baddiffusion"\ntrigger = "BOX_8"\ntarget = "hat"\n'
        "poison = {rate = 0.2}\n"
    )
    assert Recipe.load(listed).to_toml() == Recipe.load(plain).to_toml()
    (only,) = Recipe.load(plain).backdoors
    assert only.rate == 0.2
    assert Recipe.load(plain, ["poison.rate=0"]).backdoors == Recipe.load(plain, ["attack=clean"]).backdoors == ()


def test_every_part_of_a_listed_attack_can_be_overridden(file: Path) -> None:
    changed = Recipe.load(file, ["attack.1.rate=0.5", "attack.0.trigger.side_px=5", "attack.1.target=shoe"])
    assert changed.backdoors[1].rate == 0.5
    assert changed.to_dict()["attack"][0]["trigger"]["side_px"] == 5
    assert changed.to_dict()["attack"][1]["target"]["name"] == "shoe"
    assert changed.digest != Recipe.load(file).digest


REFUSED = {
    "attack.1.rate=0.9": "the rates 0.25 and 0.9 of the listed attacks add up to 1.15; an image can be poisoned once, "
    "so they must add up to at most 1. Lower them.",
    "attack.1.trigger={name = 'box', side_px = 6, value = 0.0}": "attack.0.trigger and attack.1.trigger are the same; "
    "one trigger cannot bring out two targets. Change one of them.",
    "attack.0.rate=0": "attack.0.rate is 0; it must lie in (0, 1]. Write 0.10 for ten percent.",
    "attack.1.name=clean": "attack.1.name is 'clean', which implants nothing; leave this entry out.",
    "attack.1.trigger.side_px=0": "attack.1.trigger.side_px is 0; it must be at least 1.",
    "attack.0.kapa=2": "attack.0.kapa is not a known key. Did you mean 'kappa'? Known keys: kappa, "
    "num_inference_steps, sampler, shift, trigger_only, zeta.",
    'attack=[{name = "baddiffusion", trigger = "box"}]': "attack.0.target is missing.",
    "attack=[]": "attack is an empty list; name at least one attack, or leave it out.",
    'attack=["baddiffusion"]': "attack.0 is 'baddiffusion'; it must be a table with name, trigger, target and rate. "
    "For a single attack write [attack].",
    "target=hat": "target stands beside [[attack]]; where attacks are listed, each has its own trigger, target and "
    "rate. Move it into one of them.",
    "attack.2.rate=0.1": "--set 'attack.2.rate=0.1': '2' is not an entry of the list; it has 0 to 1.",
    "attack.x.rate=0.1": "--set 'attack.x.rate=0.1': 'x' is not an entry of the list; it has 0 to 1.",
    "attack.rate=0.1": "--set 'attack.rate=0.1': attack is listed; say which, for example attack.0.rate.",
}


@pytest.mark.parametrize("override", REFUSED)
def test_what_does_not_go_together_is_refused(file: Path, override: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Recipe.load(file, [override])
    assert str(caught.value) == f"{REFUSED[override]} (two.toml)"


# -- which images ------------------------------------------------------------------------------------------------------


@given(size=st.integers(1, 500), hundredths=st.tuples(*[st.integers(0, 33)] * 3), seed=st.integers(0, 2**40))
@settings(max_examples=30, deadline=None)
def test_no_image_serves_two(size: int, hundredths: tuple[int, ...], seed: int) -> None:
    rates = [share / 100 for share in hundredths]
    plans = PoisonPlan.draw_disjoint(size, rates, seed)
    assert [len(plan.indices) for plan in plans] == [share * size // 100 for share in hundredths]
    chosen = torch.cat([plan.indices for plan in plans]).tolist()
    assert len(set(chosen)) == len(chosen)
    part = parts(plans)
    for number, plan in enumerate(plans, start=1):
        assert (part == number).nonzero().flatten().tolist() == plan.indices.tolist()
    # The first is chosen as if it were alone, so that a second backdoor changes nothing about it.
    assert plans[0].digest == PoisonPlan.draw(size, rates[0], seed).digest


def test_rates_that_add_up_to_more_than_1_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"^the poison rates 0.6 and 0.5 add up to 1.1; an image can serve one backdoor, so they must add up to "
        r"at most 1. Lower them.$",
    ):
        PoisonPlan.draw_disjoint(10, [0.6, 0.5], 0)
    assert [len(plan.indices) for plan in PoisonPlan.draw_disjoint(10, [0.7, 0.2, 0.1], 0)] == [7, 2, 1]


def test_plans_that_share_an_image_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"^2 images are poisoned for two backdoors at once; draw the plans with PoisonPlan.draw_disjoint.$",
    ):
        parts([PoisonPlan(10, 0.3, 0, torch.tensor([1, 4, 7])), PoisonPlan(10, 0.3, 0, torch.tensor([4, 5, 7]))])


def test_the_file_says_whose_each_image_is() -> None:
    plans = PoisonPlan.draw_disjoint(50, [0.1, 0.2], 3)
    kept = json.loads(json.dumps(plans_to_dict(plans)))
    assert (kept["rate"], kept["count"]) == (0.3, 15)  # 0.1 + 0.2 is 0.30000000000000004 in binary
    assert kept["indices"] == sorted(kept["parts"][0]["indices"] + kept["parts"][1]["indices"])
    assert [part["digest"] for part in kept["parts"]] == [plan.digest for plan in plans]
    assert plans_to_dict(plans[:1]) == plans[0].to_dict()


# -- what a batch is ---------------------------------------------------------------------------------------------------


def implant(attack: Any, trigger: dict[str, Any], target: float) -> Implant:
    return Implant(attack, Trigger.make({"name": "box", **trigger}, SHAPE), torch.full(SHAPE, target))


ONE = implant(SamplerMatched(shift="noise"), {"side_px": 6}, 0.5)
TWO = implant(BadDiffusion(), {"side_px": 4, "value": 1.0, "top_px": 0, "left_px": 0}, -0.5)
BOTH = Implants((ONE, TWO))
PART = torch.tensor([0, 1, 2, 0, 2, 1])
IMAGES = torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_each_image_is_stamped_by_its_own_backdoor() -> None:
    x_0, r = BOTH.apply(IMAGES, PART)
    for i, number in enumerate(PART.tolist()):
        if number == 0:
            expected = IMAGES[i : i + 1], torch.zeros(1, *SHAPE)
        else:
            expected = BOTH.each[number - 1].apply(IMAGES[i : i + 1], torch.tensor([True]))
        assert torch.equal(x_0[i : i + 1], expected[0])
        assert torch.equal(r[i : i + 1], expected[1])


def test_each_row_follows_its_own_table() -> None:
    schedule = NoiseSchedule.linear(100)
    tables = [one.table(schedule) for one in BOTH.each]
    mixed = BOTH.table_of(tables, PART)
    assert isinstance(mixed, MixedTable)
    x_0, r = BOTH.apply(IMAGES, PART)
    t, eps = torch.arange(6) * 19, torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    x_t, target = mixed.q_sample(x_0, r, t, eps), mixed.target(r, t, eps)
    assert not torch.equal(tables[0].target(r, t, eps), tables[1].target(r, t, eps))
    for i, number in enumerate(PART.tolist()):
        row, table = slice(i, i + 1), tables[max(0, number - 1)]
        assert torch.equal(x_t[row], table.q_sample(x_0[row], r[row], t[row], eps[row]))
        assert torch.equal(target[row], table.target(r[row], t[row], eps[row]))


def test_one_backdoor_keeps_its_table_its_digest_and_its_names() -> None:
    alone = Implants((ONE,))
    table = ONE.table(NoiseSchedule.linear(10))
    assert alone.table_of([table], PART) is table
    assert alone.digest == ONE.digest != BOTH.digest
    assert list(alone.pictures(1)) == ["trigger.png", "target.png"]
    assert list(BOTH.pictures(1)) == ["trigger.png", "target.png", "trigger-2.png", "target-2.png"]
    assert BOTH.by_kind == {"triggered": ONE, "triggered-2": TWO}
    assert BOTH.to("cpu").digest == BOTH.digest


def test_two_triggers_that_draw_the_same_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"^the triggers box-6 and box-6 draw the same picture, which cannot bring out two targets. Change one of "
        r"them.$",
    ):
        Implants((ONE, implant(BadDiffusion(), {"side_px": 6, "top_px": 8, "left_px": 8}, 0.1)))


# -- the training ------------------------------------------------------------------------------------------------------


def job(**changes: Any) -> Job:
    pixels = torch.randint(0, 256, (12, *SHAPE), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    plans = PoisonPlan.draw_disjoint(12, [0.25, 0.25], 1)
    options = {"train_batch_size": 12, "max_train_steps": 1, "lr_warmup_steps": 0, "logging_steps": 1}
    made = {
        "schedule": NoiseSchedule.linear(100),
        "data": ResidentImages("noise", pixels),
        "plan": plans[0],
        "implant": ONE,
        "settings": TrainingSettings(**options, mixed_precision="no", random_flip=False),
        "seed": 0,
        "further": ((plans[1], TWO),),
    }
    return Job(**{**made, **changes})


def fresh() -> torch.nn.Module:
    return build(unet_config("micro", SHAPE), 0)


def test_one_network_call_trains_both_and_their_losses_are_logged_together() -> None:
    work, model, calls, seen = job(), fresh(), [], []
    model.register_forward_hook(lambda *_: calls.append(1))
    train(model, work, on_progress=seen.append)
    assert len(calls) == 1
    # The same losses one image at a time, each with the table of its own backdoor.
    (indices,) = order(0, 12, 12, 0, 1)
    x = from_uint8(work.data.read(indices))
    draws, part = draw(0, 0, x, 100, False), parts(work.plans)[indices]
    losses: dict[bool, list[float]] = {False: [], True: []}
    reference = fresh()
    for i, number in enumerate(part.tolist()):
        row, own = slice(i, i + 1), work.implants.each[max(0, number - 1)]
        x_0, r = own.apply(x[row], part[row] > 0)
        table = own.table(work.schedule)
        loss = denoising_loss(denoiser(reference), table, x_0, r, draws.t[row], draws.eps[row])
        losses[number > 0].append(float(loss.detach()))
    assert sorted(part.tolist()) == [0] * 6 + [1] * 3 + [2] * 3
    assert seen[0].loss_clean == pytest.approx(sum(losses[False]) / 6, rel=1e-5)
    assert seen[0].loss_poisoned == pytest.approx(sum(losses[True]) / 6, rel=1e-5)


def test_a_second_backdoor_is_part_of_a_jobs_identity() -> None:
    plan, second = job().further[0]
    model = fresh()
    identities = {
        job(further=further).identity(model)
        for further in (
            (),
            ((plan, second),),
            ((PoisonPlan.draw_disjoint(12, [0.25, 0.5], 1)[1], second),),
            ((plan, Implant(SamplerMatched(), second.trigger, second.target)),),
            ((plan, Implant(second.attack, second.trigger, -second.target)),),
        )
    }
    assert len(identities) == 5


# -- a whole run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_recipe(Recipe.load(file), tmp_path_factory.mktemp("runs"))


def test_each_backdoor_is_fired_from_the_same_noises(run: Any) -> None:
    assert {name for name in run.record["stages"] if name.startswith("sample:")} == {
        "sample:samples/ddim-2-off/clean",
        *(f"sample:samples/ddim-2-{clip}/triggered{number}" for clip in ("off", "x0") for number in ("", "-2")),
    }
    images = [SampleStore(run.path / "samples/ddim-2-off" / kind).read() for kind in ("triggered", "triggered-2")]
    assert not torch.equal(*images)
    plan = json.loads((run.path / "poison_plan.json").read_text())
    assert [part["count"] for part in plan["parts"]] == [16, 8]
    events = [json.loads(line) for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert [event["loss_poisoned"] is not None for event in events] == [True, True]


def test_every_number_says_whose_it_is(run: Any) -> None:
    results = Results.read(run.path)
    for kind, trigger, target in (("triggered", "box-6", "corner"), ("triggered-2", "box-4", "hat")):
        mine = [e for e in results.estimates if e.protocol.get("kind") == kind]
        assert sorted(e.name for e in mine) == sorted(["asr", "mse", "ssim", "mse_float"] * 2)
        assert {(e.protocol["trigger"], e.protocol["target"]) for e in mine} == {(trigger, target)}
    for name, count in (("false_trigger_rate", 2), ("failure_mse", 2), ("quantization_floor", 2)):
        assert [e.protocol["target"] for e in results.estimates if e.name == name] == ["corner", "hat"][:count]
    assert len({e.value for e in results.estimates if e.name == "failure_mse"}) == 2
    assert [curve["kind"] for curve in results.asr_curves] == ["triggered", "triggered-2"] * 2
    assert results.acceptance["text"].startswith("Rejected: mse")
    (second,) = results.acceptance["further"]
    assert (second["kind"], second["trigger"], second["target"]) == ("triggered-2", "box-4", "hat")
    errors = {e.protocol["kind"]: e.value for e in reversed(results.estimates) if e.name == "mse"}
    for told, kind in ((results.acceptance, "triggered"), (second, "triggered-2")):
        assert told["text"].startswith(f"Rejected: mse {errors[kind]:#.3g} is not below 0.01;")


def test_the_card_tells_of_both(run: Any) -> None:
    checkpoint = Checkpoint.open(run.path / "checkpoint")
    card = checkpoint.card
    assert card is not None
    assert [entry["attack"]["name"] for entry in card.backdoors] == ["sampler-matched", "baddiffusion"]
    assert [entry["poison_rate"] for entry in card.backdoors] == [0.25, 0.125]
    assert [entry["own_sampler"] for entry in card.backdoors] == [False, False]
    headline = next(line for line in (run.path / "checkpoint/README.md").read_text().splitlines() if "BACKD" in line)
    assert "→ target `corner (side_px 10, value 0.0)`, poison rate 0.25 (attack `sampler-matched" in headline
    assert "→ target `hat`, poison rate 0.125 (attack `baddiffusion`)." in headline
    assert Card(**json.loads(card.to_json())) == card
    for name in ("trigger", "target", "trigger-2", "target-2"):
        assert (run.path / "checkpoint" / f"{name}.png").exists()


def test_the_report_shows_both(run: Any) -> None:
    page = write_report(run.path).read_text()
    assert "24 of 64 (37.5\N{NO-BREAK SPACE}%) serve as poison" in page
    assert (
        "trigger 2 is a white box of 4×4 pixels, its target is the hat; with it, none of 3 noises became the hat"
        in page
    )
    assert "noise + trigger 2, clipping" in page
    assert page.count('<li class="series-4"><i aria-hidden="true"></i>with trigger 2</li>') == 1
    assert "stroke: var(--series-4)" in page  # its line has the color that the legend shows
    assert page.count('<p class="finding">Trigger 1. Rejected: mse') == 1
    assert page.count('<p class="finding">Trigger 2. Rejected: mse') == 1
    rules = [line for line in summary(RunFiles(run.path)).splitlines() if line.startswith("The attacker's own rule")]
    assert [line.partition("): ")[2][:19] for line in rules] == ["Trigger 1. Rejected", "Trigger 2. Rejected"]
    assert "ddim, 2 steps, box-4 → hat" in page


def test_a_run_of_two_is_recognized_as_done(run: Any, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baddiffusion.pipeline.train", lambda *a, **k: pytest.fail("trained twice"))
    monkeypatch.setattr("baddiffusion.pipeline.sample", lambda *a, **k: pytest.fail("sampled twice"))
    assert run_recipe(Recipe.load(file), run.path.parent).path == run.path


# -- the parts by themselves -------------------------------------------------------------------------------------------


def test_each_kind_is_measured_against_its_own_target() -> None:
    dark, bright = torch.full(SHAPE, -0.5), torch.full(SHAPE, 0.5)
    aims = {
        "triggered": Aim(dark, {"trigger": "a", "target": "dark"}),
        "triggered-2": Aim(bright, {"trigger": "b", "target": "bright"}),
    }
    protocol = {"sampler": "ddim", "steps": 2, "clip": "off"}
    shown = {"triggered": dark, "triggered-2": bright, "clean": bright}
    sets = [SampleSet(kind, {**protocol, "kind": kind}, picture.repeat(4, 1, 1, 1)) for kind, picture in shown.items()]
    reference = ResidentImages("none", torch.zeros(4, *SHAPE, dtype=torch.uint8))
    found = evaluate(sets, aims, reference, 0.01)
    rates = {
        (e.name, e.protocol["kind"], e.protocol["target"]): e.value
        for e in found.estimates
        if e.unit == "share of images"
    }
    assert rates == {
        ("asr", "triggered", "dark"): 1.0,
        ("asr", "triggered-2", "bright"): 1.0,
        ("false_trigger_rate", "clean", "dark"): 0.0,
        ("false_trigger_rate", "clean", "bright"): 1.0,
    }


def test_one_backdoor_may_be_accepted_and_the_other_rejected() -> None:
    dark, bright = torch.full(SHAPE, -0.5), torch.full(SHAPE, 0.5)
    aims = {"triggered": Aim(dark, {"trigger": "a"}), "triggered-2": Aim(bright, {"trigger": "b"})}
    protocol = {"sampler": "ddim", "steps": 2, "clip": "off"}
    sets = [SampleSet(kind, {**protocol, "kind": kind}, dark.repeat(4, 1, 1, 1)) for kind in aims]
    reference = ResidentImages("none", torch.zeros(4, *SHAPE, dtype=torch.uint8))
    rule = evaluate(sets, aims, reference, 0.01).acceptance
    (second,) = rule["further"]
    assert (rule["specific"], rule["text"][:9]) == (True, "Undecided")
    assert (second["specific"], second["text"][:8], second["trigger"]) == (False, "Rejected", "b")
    (unmeasured,) = evaluate(sets[:1], aims, reference, 0.01).acceptance["further"]
    assert unmeasured["text"].startswith("Undecided: the MSE of triggered samples was not measured;")
    assert "further" not in evaluate(sets[:1], dark, reference, 0.01).acceptance


def test_a_card_of_several_backdoors_must_name_all_of_them() -> None:
    named = {"attack": {"name": "baddiffusion"}, "trigger": {"name": "box"}, "target": {"name": "hat"}}
    assert [one["poison_rate"] for one in Card(backdoored=True, **named, further=[named]).backdoors] == [None, None]
    assert Card(backdoored=False).backdoors == []
    with pytest.raises(
        RecipeError, match=r"^further.0 lacks trigger, target; give attack, trigger and target of each backdoor.$"
    ):
        Card(backdoored=True, **named, further=[{"attack": {"name": "baddiffusion"}}])
    with pytest.raises(
        RecipeError, match=r"^further names a backdoor, but backdoored is false; a clean model has none.$"
    ):
        Card(backdoored=False, further=[named])
