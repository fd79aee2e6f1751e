from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from baddiffusion.attacks import BadDiffusion, Clean
from baddiffusion.diffusion import ForwardTable, NoiseSchedule, denoising_loss
from baddiffusion.errors import RecipeError

T = torch.tensor([0, 9, 99, 499, 999])


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    stream = torch.Generator().manual_seed(0)
    draw = lambda: torch.randn(5, 3, 4, 6, generator=stream, dtype=torch.float64)  # noqa: E731
    return {"x_0": draw(), "r": draw(), "eps": draw()}


def schedule_table() -> tuple[NoiseSchedule, ForwardTable]:
    schedule = NoiseSchedule.linear()
    return schedule, BadDiffusion().forward_table(schedule)


def test_q_sample_and_target_are_the_table_written_out(batch) -> None:
    _, table = schedule_table()
    x_t, target = table.q_sample(**batch, t=T), table.target(batch["r"], T, batch["eps"])
    for i, t in enumerate(T.tolist()):
        expected = table.signal[t] * batch["x_0"][i] + table.shift[t] * batch["r"][i] + table.noise[t] * batch["eps"][i]
        torch.testing.assert_close(x_t[i], expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(target[i], batch["eps"][i] + table.residual[t] * batch["r"][i], rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_r_the_attack_is_ordinary_diffusion_bit_for_bit(batch, dtype) -> None:
    schedule, table = schedule_table()
    clean = Clean().forward_table(schedule)
    x_0, eps = batch["x_0"].to(dtype), batch["eps"].to(dtype)
    zero = torch.zeros_like(x_0)
    assert torch.equal(table.q_sample(x_0, zero, T, eps), clean.q_sample(x_0, zero, T, eps))
    assert torch.equal(table.target(zero, T, eps), clean.target(zero, T, eps))
    assert torch.equal(clean.target(zero, T, eps), eps)


def test_without_r_it_is_what_diffusers_adds(batch) -> None:
    _, table = schedule_table()
    x_0, eps = batch["x_0"].float(), batch["eps"].float()
    theirs = DDPMScheduler().add_noise(x_0, eps, T)
    torch.testing.assert_close(table.q_sample(x_0, torch.zeros_like(x_0), T, eps), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["list", "float32", "numpy", "float64"])
def test_the_public_contract_takes_any_betas(batch, kind: str) -> None:
    betas = NoiseSchedule.linear(200).betas
    given = {"list": betas.tolist(), "float32": betas.float(), "numpy": betas.numpy(), "float64": betas}[kind]
    table = BadDiffusion().forward_table(NoiseSchedule.from_betas(given))
    t = torch.tensor([0, 3, 50, 120, 199])
    alpha = 1 - betas.numpy()
    bar = np.cumprod(alpha)[t].reshape(-1, 1, 1, 1)
    step = alpha[t].reshape(-1, 1, 1, 1)
    x_0, r, eps = (batch[name].numpy() for name in ("x_0", "r", "eps"))
    tolerance = 1e-6 if kind == "float32" else 1e-13
    expected = np.sqrt(bar) * x_0 + (1 - np.sqrt(bar)) * r + np.sqrt(1 - bar) * eps
    np.testing.assert_allclose(table.q_sample(batch["x_0"], batch["r"], t, batch["eps"]), expected, atol=tolerance)
    # The paper's own form of c_t, which cancels where β is small: hence the wider tolerance at float64.
    c = (1 - np.sqrt(step)) * np.sqrt(1 - bar) / (1 - step)
    np.testing.assert_allclose(table.target(batch["r"], t, batch["eps"]), eps + c * r, atol=max(tolerance, 1e-12))


def test_less_noise_for_poisoned_samples_only(batch) -> None:
    schedule = NoiseSchedule.linear()
    gain = torch.rand(3, 4, 6, generator=torch.Generator().manual_seed(1))
    ordinary = BadDiffusion().forward_table(schedule)
    table = ForwardTable(ordinary.signal, ordinary.noise, ordinary.shift, ordinary.residual, gain)
    r = batch["r"].clone()
    r[[0, 3]] = 0
    x_t = table.q_sample(batch["x_0"], r, T, batch["eps"])
    without = ordinary.q_sample(batch["x_0"], r, T, batch["eps"])
    with_gain = ordinary.q_sample(batch["x_0"], r, T, gain.double() * batch["eps"])
    assert torch.equal(x_t[[0, 3]], without[[0, 3]])
    assert torch.equal(x_t[[1, 2, 4]], with_gain[[1, 2, 4]])
    assert not torch.equal(x_t[[1, 2, 4]], without[[1, 2, 4]])
    assert torch.equal(table.target(r, T, batch["eps"]), ordinary.target(r, T, batch["eps"]))


def test_a_gain_of_ones_changes_no_bit(batch) -> None:
    _, table = schedule_table()
    ones = ForwardTable(table.signal, table.noise, table.shift, table.residual, torch.ones(3, 4, 6))
    assert torch.equal(ones.q_sample(**batch, t=T), table.q_sample(**batch, t=T))


def test_the_loss_is_one_number_per_sample(batch) -> None:
    _, table = schedule_table()
    seen = {}

    def model(x_t, t):
        seen.update(x_t=x_t, t=t)
        return 0.5 * x_t + t.view(-1, 1, 1, 1) / 1000

    losses = denoising_loss(model, table, batch["x_0"], batch["r"], T, batch["eps"])
    assert torch.equal(seen["x_t"], table.q_sample(**batch, t=T))
    assert torch.equal(seen["t"], T)
    answer, wanted = model(seen["x_t"], T), table.target(batch["r"], T, batch["eps"])
    for i in range(5):
        manual = sum(((answer[i] - wanted[i]) ** 2).flatten().tolist()) / (3 * 4 * 6)
        assert float(losses[i]) == pytest.approx(manual, rel=1e-5)
    # Reduced over the batch it is the plain mean over all elements: clean and poisoned ones weigh the same.
    assert float(losses.mean()) == pytest.approx(float((answer - wanted).square().mean()), rel=1e-5)


def test_the_loss_is_float32_even_where_the_network_answers_in_bf16(batch) -> None:
    _, table = schedule_table()
    x_0, r, eps = (batch[name].float() for name in ("x_0", "r", "eps"))
    losses = denoising_loss(lambda x_t, t: x_t.bfloat16(), table, x_0, r, T, eps)
    rounded = table.q_sample(x_0, r, T, eps).bfloat16().float()
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, (rounded - table.target(r, T, eps)).square().flatten(1).mean(dim=1))


def test_a_perfect_answer_has_no_loss(batch) -> None:
    _, table = schedule_table()
    target = table.target(batch["r"], T, batch["eps"])
    assert torch.equal(denoising_loss(lambda x_t, t: target, table, t=T, **batch), torch.zeros(5))


def test_a_table_moves_whole() -> None:
    _, table = schedule_table()
    gained = ForwardTable(table.signal, table.noise, table.shift, table.residual, torch.ones(1, 2, 2))
    moved = gained.to("meta")
    tensors = (moved.signal, moved.noise, moved.shift, moved.residual, moved.noise_gain)
    assert {str(v.device) for v in tensors if v is not None} == {"meta"}
    assert table.to("cpu").noise_gain is None
    assert len(table) == 1000


def test_vectors_of_different_lengths_are_refused() -> None:
    ones = torch.ones(4, dtype=torch.float64)
    with pytest.raises(RecipeError, match=r"have lengths \[3, 4\]; they must be equal"):
        # Built past the shape check of the test run, as a caller without it would build it.
        ForwardTable.__post_init__(_Unequal(ones, ones, ones[:3], ones))  # type: ignore[arg-type]


class _Unequal:
    def __init__(self, signal, noise, shift, residual) -> None:
        self.signal, self.noise, self.shift, self.residual = signal, noise, shift, residual
