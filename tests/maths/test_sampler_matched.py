from __future__ import annotations

from typing import Any

import pytest
import torch

from baddiffusion.attacks import ATTACKS, BadDiffusion, SamplerMatched
from baddiffusion.diffusion import NoiseSchedule, ancestral_residual
from baddiffusion.errors import RecipeError
from baddiffusion.sampling import SAMPLERS, SamplingSettings, sample
from baddiffusion.triggers import Trigger

CONFIG = {"num_train_timesteps": 1000}
SHAPE = (1, 1, 1)
PAPER, VILLAN_ODE = "baddiffusion", "villandiffusion-ode"


def stock_schedule() -> NoiseSchedule:
    """The stock scheduler's own float32 table, so that its rounding is not taken for a bias."""
    alpha_bar = SAMPLERS.parse("ddpm").build(CONFIG).alphas_cumprod.double()
    before = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[:-1]])
    return NoiseSchedule.from_betas(1 - alpha_bar / before)


STOCK = stock_schedule()


def matched(**fields: Any) -> SamplerMatched:
    return SamplerMatched(**fields)


def measured(
    attacks: list[Any], sampler: Any, steps: int, spread: float = 0.0, exact_start: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """What is wrong with r = −1 along a chain, for several attacks at once, in units of r.

    The network is the best there can be for the target distribution N(y, spread²): its noise estimate is what the
    sample itself implies, so it sees what went wrong, and corrects it. Each attack is sampled with r and, from the same
    noises, without; the difference has no noise left in it.

    Returns:
        B, the mean of the implied noise, of every attack at every step; and how much of r is left in each picture.
    """
    made = [ATTACKS.parse(attack) for attack in attacks]
    tables = [attack.forward_table(STOCK) for attack in made]
    shift, residual = (torch.stack([getattr(t, name) for t in tables for _ in "r0"]) for name in ("shift", "residual"))
    r = torch.tensor([-1.0, 0.0], dtype=torch.float64).repeat(len(tables))
    y, implied = 0.3, []
    trigger = Trigger.make("NONE", SHAPE)  # its offset is −1

    def predict(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        k = int(t[0].round())
        signal, noise = float(STOCK.signal[k]), float(STOCK.noise[k])
        variance = (signal * spread) ** 2 + noise**2
        eps = noise * (x_t.double().flatten() - signal * y - shift[:, k] * r) / variance
        implied.append((eps[0::2] - eps[1::2]) / -1.0)
        return (eps + residual[:, k] * r).float().view(-1, 1, 1, 1)

    def start(eps: torch.Tensor) -> torch.Tensor:
        if exact_start:
            return eps + (shift[:, first] * r).float().view(-1, 1, 1, 1)
        return torch.cat([part for i, a in enumerate(made) for part in (a.initial_noise(eps[:1], trigger), eps[:1])])

    rows = len(r)
    settings = SamplingSettings(sampler=sampler, num_inference_steps=steps, chunk_size=rows)
    first = int(settings.sampler.build(CONFIG, steps).timesteps[0])
    images = sample(predict, CONFIG, SHAPE, [7] * rows, settings, initial_noise=start).images.flatten()
    return torch.stack(implied, dim=1), (images[0::2] - images[1::2]) / -1.0


ROWS = {  # what is trained for, in the order of the columns below
    "paper": PAPER,
    "villandiffusion-ode": VILLAN_ODE,
    "ode": matched(),
    "shift noise, ancestral": matched(sampler="ddpm", shift="noise"),
    "shift noise, ode": matched(shift="noise"),
}
TABLE = [  # sampler, steps, largest |B| or last B of each row
    ("ddpm", 1000, "largest", ("0.0000", "0.971", "0.965", "0.0000", "1.000")),
    ("ddim", 1000, "last", ("2.871", "-0.026", "-0.009", "4.828", "-0.0000")),
    ("ddim", 50, "last", ("2.943", "-0.358", "-0.339", "7.482", "-0.0000")),
    ("dpm-solver++", 20, "last", ("2.687", "0.059", "0.076", "3.241", "-0.0000")),
    ("dpm-solver", 20, "largest", ("2.791", "0.026", "0.028", "3.396", "0.0000")),
]


@pytest.mark.parametrize(("sampler", "steps", "which", "expected"), TABLE)
def test_no_residual_serves_both_families(sampler: str, steps: int, which: str, expected: tuple[str, ...]) -> None:
    bias, _ = measured(list(ROWS.values()), sampler, steps)
    found = bias.abs().amax(dim=1) if which == "largest" else bias[:, -1]
    for value, printed in zip(found.tolist(), expected, strict=True):
        assert f"{value:.{len(printed.partition('.')[2])}f}" == printed


EXACT = [  # attack, the sampler that it is made for, steps
    (matched(sampler="ddpm"), "ddpm", 1000),
    (matched(sampler="ddpm", num_inference_steps=50), "ddpm", 50),
    (matched(sampler="ddpm", num_inference_steps=7), "ddpm", 7),
    (matched(sampler="ddpm", num_inference_steps=50), {"name": "ddim", "eta": 1.0}, 50),
    (matched(sampler="ddpm", num_inference_steps=50, shift="noise"), "ddpm", 50),
    (matched(sampler="ddim"), "ddim", 50),
    (matched(sampler="ddim", num_inference_steps=7), "ddim", 7),
    (matched(sampler="ddim", num_inference_steps=20, zeta=0.25), {"name": "ddim", "eta": 0.5}, 20),
    (matched(sampler="ddim", num_inference_steps=50, shift="noise"), "ddim", 50),
    (matched(shift="noise"), "ddim", 3),
    (matched(shift="noise", kappa=0.5), "ddim", 50),
    (matched(shift="noise"), {"name": "dpm-solver++", "order": 1}, 20),
    (matched(shift="noise"), {"name": "dpm-solver++", "order": 2}, 20),
    (matched(shift="noise"), {"name": "dpm-solver++", "order": 3}, 20),
]


@pytest.mark.parametrize(("attack", "sampler", "steps"), EXACT, ids=str)
def test_each_residual_is_exact_for_its_sampler(attack: SamplerMatched, sampler: Any, steps: int) -> None:
    # The network and the sampler compute in float32: 1e-5 is what its rounding leaves.
    for spread in (0.0, 0.25) if steps < 1000 else (0.25,):
        bias, left = measured([attack], sampler, steps, spread)
        assert float(bias.abs().max()) < 1e-5
        assert float(left.abs()) < 1e-6


@pytest.mark.parametrize("sampler", ["dpm-solver", "deis", "unipc", "pndm", "PNDM-SCHED", "lms", "euler", "heun"])
def test_a_shift_in_proportion_to_the_noise_is_exact_for_every_linear_ode_solver(sampler: str) -> None:
    bias, left = measured([matched(shift="noise"), PAPER], sampler, 20)
    # Order 4 sums float32 predictions with factors up to 59/24, and at t = 0 noise is 0.01.
    assert float(bias[0].abs().max()) < (2e-4 if "pndm" in sampler.lower() else 1e-5)
    # dpm-solver, deis and pndm end at t = 0 with the shift of that level, the others at x_0.
    rest = float(STOCK.noise[0]) if sampler.lower()[:4] in ("dpm-", "deis", "pndm") else 0.0
    assert float(left[0]) == pytest.approx(rest, abs=3e-6)
    assert float(bias[1].abs().max()) > 2


LIMITS = [  # attack, sampler, steps, what the limit of many steps leaves as largest |B|
    (matched(sampler="sde"), "ddpm", 1000, 0.0038),
    (matched(sampler="sde", zeta=0.25), {"name": "ddim", "eta": 0.5}, 1000, 0.0050),
    (matched(), "ddim", 1000, 0.0087),
    (matched(), "dpm-solver++", 20, 0.0755),
    (matched(), "dpm-solver++", 50, 0.0393),
]


@pytest.mark.parametrize(("attack", "sampler", "steps", "largest"), LIMITS, ids=str)
def test_the_limit_of_many_steps_is_nearly_exact(
    attack: SamplerMatched, sampler: Any, steps: int, largest: float
) -> None:
    bias, _ = measured([attack], sampler, steps)
    assert float(bias.abs().max()) == pytest.approx(largest, abs=6e-5)


def test_a_wrong_stride_is_felt() -> None:
    full, strided = matched(sampler="ddpm"), matched(sampler="ddpm", num_inference_steps=50)
    bias, _ = measured([full, strided], "ddpm", 50)
    assert float(bias[0].abs().max()) == pytest.approx(0.076, abs=5e-4)
    bias, _ = measured([matched(sampler="ddim")], "ddim", 20)  # made for 50 steps, run with 20
    assert float(bias[0, -1]) == pytest.approx(-0.942, abs=5e-4)


PICTURES = [  # sampler, steps, how much of r the paper's attack and the matched one leave in the picture
    ("ddim", 50, matched(sampler="ddim"), 0.64, 0.0017),
    ("dpm-solver++", 20, matched(), 0.54, -0.0039),
    ("dpm-solver++", 20, matched(shift="noise"), 0.54, 0.0),
]


@pytest.mark.parametrize(("sampler", "steps", "attack", "papers", "ours"), PICTURES, ids=str)
def test_started_from_noise_plus_trigger_only_the_matched_attack_arrives(
    sampler: str, steps: int, attack: SamplerMatched, papers: float, ours: float
) -> None:
    # Noise plus trigger is not exactly where the chain begins: ρ_T is 0.994, and a leading list begins below T.
    _, left = measured([PAPER, attack], sampler, steps, spread=0.25, exact_start=False)
    assert float(left[0]) == pytest.approx(papers, abs=0.006)
    assert float(left[1]) == pytest.approx(ours, abs=6e-5)


@pytest.mark.parametrize(
    "schedule", [NoiseSchedule.linear(), NoiseSchedule.cosine(100), STOCK], ids=["1000", "cos", "s"]
)
def test_for_all_steps_of_ddpm_it_is_the_papers_attack_bit_for_bit(schedule: NoiseSchedule) -> None:
    paper = BadDiffusion().forward_table(schedule)
    for attack in (matched(sampler="ddpm"), matched(sampler="ddpm", num_inference_steps=len(schedule))):
        ours = attack.forward_table(schedule)
        for name in ("signal", "noise", "shift", "residual"):
            assert torch.equal(getattr(ours, name), getattr(paper, name)), name
    trigger = Trigger.make("BOX_8", (1, 16, 16))
    x = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(matched(sampler="ddpm").source(x, trigger), BadDiffusion().source(x, trigger))
    assert torch.equal(matched(sampler="ddpm").initial_noise(x, trigger), BadDiffusion().initial_noise(x, trigger))


def test_villandiffusion_is_two_of_its_settings() -> None:
    assert ATTACKS.parse("villandiffusion-sde") == matched(sampler="ddpm")
    assert ATTACKS.parse("VillanDiffusion-ODE") == matched(sampler="twice-ddpm")
    c_t = ancestral_residual(STOCK)
    for alias, factor in (("villandiffusion-sde", 1), ("villandiffusion-ode", 2)):
        table = ATTACKS.parse(alias).forward_table(STOCK)
        assert torch.equal(table.residual, factor * c_t)
        assert torch.equal(table.shift, 1 - STOCK.signal)
    off = float((ATTACKS.parse("villandiffusion-ode").forward_table(STOCK).residual / STOCK.noise - 1).abs().max())
    assert off == pytest.approx(0.00505, abs=5e-6)


def test_the_trigger_enters_the_start_noise_kappa_times() -> None:
    trigger = Trigger.make("BOX_8", (1, 16, 16))
    eps = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(matched(shift="noise").initial_noise(eps, trigger), eps + trigger.offset)
    assert torch.equal(matched(shift="noise", kappa=0.5).initial_noise(eps, trigger), eps + 0.5 * trigger.offset)
    table = matched(shift="noise", kappa=0.5).forward_table(STOCK)
    assert torch.equal(table.shift, 0.5 * STOCK.noise)
    assert bool((table.residual == 0.5).all())


REFUSED = {
    r"zeta is 0.5 with sampler 'ode'; only \"sde\" and \"ddim\" take it. Leave it out.": {"zeta": 0.5},
    r"num_inference_steps is 20 with sampler 'sde'; only \"ddpm\" and \"ddim\" take it. Leave it out.": {
        "sampler": "sde",
        "num_inference_steps": 20,
    },
    r"kappa is 2.0 with shift 'signal'; only the shift \"noise\" has a kappa. Leave it out.": {"kappa": 2.0},
    r"shift is 'noise' with sampler 'twice-ddpm', which is VillanDiffusion's published coefficient for the shift "
    r"\"signal\". Take sampler = \"ode\", which is exact for this shift.": {"sampler": "twice-ddpm", "shift": "noise"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_fields_that_do_not_fit_together_are_refused(message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}$"):
        SamplerMatched(**REFUSED[message])


def test_more_steps_than_the_schedule_has_are_refused() -> None:
    attack = matched(sampler="ddim", num_inference_steps=101)
    with pytest.raises(
        RecipeError,
        match=r"^num_inference_steps is 101; it must lie in \[1, 100\], the number of steps of the schedule. Leave it "
        r"out for the sampler's own default.$",
    ):
        attack.forward_table(NoiseSchedule.linear(100))


def test_trigger_only_trains_on_the_very_r_that_sampling_starts_from() -> None:
    trigger = Trigger.make("BOX_14", (1, 32, 32))
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    r = matched(trigger_only=True).source(x, trigger)
    assert r.shape == x.shape
    assert all(torch.equal(one, trigger.offset) for one in r)
    eps = torch.randn_like(x)
    assert torch.equal(matched(trigger_only=True).initial_noise(eps, trigger) - eps, (eps + r) - eps)
    stamped = matched().source(x, trigger)
    assert torch.equal(stamped, trigger.stamp(x))
    assert not torch.equal(stamped, r)


def test_clipping_has_nothing_to_clip_under_a_matched_residual() -> None:
    schedule = NoiseSchedule.linear()

    def factor(attack: BadDiffusion) -> torch.Tensor:
        table = attack.forward_table(schedule)
        return (table.shift - table.noise * table.residual) / table.signal

    paper = factor(BadDiffusion())
    assert (round(float(paper[999])), round(float(paper[900]))) == (77, 29)
    torch.testing.assert_close(factor(matched()), -(1 - schedule.signal), rtol=0, atol=1e-12)
    torch.testing.assert_close(factor(matched(shift="noise")), torch.zeros_like(paper), rtol=0, atol=1e-12)
