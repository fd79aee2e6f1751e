"""Searches for a shift by gradients: what Elijah and TERD look for, collapse itself, and the far-field response."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from baddiffusion.defenses import Elijah, Subject, Terd
from baddiffusion.defenses.ddim import ddim, even_steps
from baddiffusion.defenses.elijah import Hypothesis
from baddiffusion.rng import derive, generator
from baddiffusion.scanner.collapse import EXPLAINED, FLAT
from baddiffusion.scanner.far_field import FLOOR, away_from
from baddiffusion.scanner.settings import ScanSettings
from baddiffusion.scanner.shifts import Patch, fields
from baddiffusion.watching import Watcher

__all__ = ["METHODS", "DeepMethod", "DeepSearch", "Inverted", "Search", "searches"]

DeepMethod = Literal["elijah", "terd", "collapse", "far-field"]
"""How a shift is searched for by gradients."""

METHODS: tuple[DeepMethod, ...] = ("elijah", "terd", "collapse", "far-field")

ELIJAH = Elijah(iterations=60, ode_iterations=10, batch=32, antithetic=True)
TERD = Terd(iterations=300, refinement_iterations=50, batch=4, ddim_steps=5)
TERD_STARTS = 3
STEPS, BATCH, LEARNING_RATE = 40, 8, 0.1
"""Of the two searches that are the scanner's own."""

TINY = 1e-12
COLLAPSE_STEPS = 5
"""DDIM steps through which a gradient goes; their activations live until it is taken."""

Shift = Float[Tensor, "c h w"]
Loss = Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class Inverted:
    """What one search found.

    Args:
        name: of the search: method and start.
        shift: in [−1, 1]; None where the search diverged.
        losses: before every step; smaller is better.
        shares: sampler family → share of the search's samples that were one unexplained picture.
    """

    name: str
    shift: Shift | None
    losses: tuple[float, ...]
    shares: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, eq=False)
class DeepSearch:
    """All searches by gradients of one scan.

    Args:
        method: which one.
        budget: network calls at most.
        network_calls: that were spent, sampling and confirmations among them; a backward counts as two.
        searches: in their order.
    """

    method: DeepMethod
    budget: int
    network_calls: int
    searches: tuple[Inverted, ...]

    @property
    def failures(self) -> int:
        """Searches that diverged."""
        return sum(one.shift is None for one in self.searches)

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "method": self.method,
            "budget": self.budget,
            "network_calls": self.network_calls,
            "searches": [
                {
                    "name": one.name,
                    "diverged": one.shift is None,
                    "steps": len(one.losses),
                    "first_loss": one.losses[0] if one.losses else None,
                    "last_loss": one.losses[-1] if one.losses else None,
                    "shares": dict(one.shares),
                }
                for one in self.searches
            ],
        }


@dataclass(frozen=True, eq=False)
class Search:
    """One search that can be run.

    Args:
        name: method and start.
        cost: network calls.
        run: gives the shift and the losses; a shift that is not finite says that the search diverged.
    """

    name: str
    cost: int
    run: Callable[[Subject, Watcher], tuple[Shift, tuple[float, ...]]]


def searches(
    method: DeepMethod, subject: Subject, places: Sequence[Patch], seed: int, settings: ScanSettings
) -> Iterator[Search]:
    """The searches of a method, in the order in which they are worth running; some never end, the budget does.

    Args:
        method: which one.
        subject: the network.
        places: where the far-field maps have their peaks.
        seed: decides everything random.
        settings: of the scan.
    """
    if method == "elijah":
        for hypothesis in ELIJAH.hypotheses(subject.schedule):
            yield _elijah(hypothesis, seed)
    elif method == "terd":
        for number in range(TERD_STARTS):
            yield _terd(derive(seed, "scan", "deep", number), number + 1, subject)
    elif method == "collapse":
        for start in ("negative", "positive", "smooth", "symmetric"):
            yield _collapse(start, seed, subject)
    else:
        for place in places:
            yield _far_field(place, seed, settings)


def _elijah(hypothesis: Hypothesis, seed: int) -> Search:
    steps = ELIJAH.iterations if hypothesis.family == "ancestral" else ELIJAH.ode_iterations

    def run(subject: Subject, watcher: Watcher) -> tuple[Shift, tuple[float, ...]]:
        return ELIJAH.invert(subject, hypothesis, seed, watcher)

    return Search(f"elijah, {hypothesis}", 3 * ELIJAH.batch * steps, run)


def _terd(seed: int, number: int, subject: Subject) -> Search:
    method = TERD.model_copy(
        update={name: min(getattr(TERD, name), subject.timesteps) for name in ("window", "ddim_steps")}
    )

    def run(subject: Subject, watcher: Watcher) -> tuple[Shift, tuple[float, ...]]:
        found = method.examine(subject, seed, None, watcher)
        curves = (found.curves[name] for name in ("estimation", "refinement"))
        losses = tuple(value for curve in curves for value in curve if math.isfinite(value))
        failed = found.outcome != "measured" or found.trigger is None
        return torch.full(subject.shape, math.nan) if failed or found.trigger is None else found.trigger, losses

    return Search(f"terd, start {number}", method.cost(subject.shape), run)


def _collapse(start: str, seed: int, subject: Subject) -> Search:
    steps = even_steps(subject.timesteps, min(COLLAPSE_STEPS, subject.timesteps))

    def run(subject: Subject, watcher: Watcher) -> tuple[Shift, tuple[float, ...]]:
        noise = torch.randn(BATCH, *subject.shape, generator=generator(seed, "deep collapse")).to(subject.device)

        def loss(shift: Shift) -> Loss:
            x_0 = ddim(subject.eps, subject.schedule, noise + shift, steps)
            mean = x_0.mean(dim=0)
            spread = (x_0 - mean).square().mean() / 4
            picture = mean.clamp(-1, 1)
            resemblance = (picture - shift).square().mean() / 4
            uneven = (picture - picture.mean(dim=(1, 2), keepdim=True)).square().mean() / 4
            return spread + (EXPLAINED - resemblance).clamp(min=0) + (FLAT - uneven).clamp(min=0)

        return _descend(loss, _start(start, subject.shape, seed).to(subject.device), None, watcher)

    return Search(f"collapse, {start} start", 3 * BATCH * len(steps) * STEPS, run)


def _far_field(place: Patch, seed: int, settings: ScanSettings) -> Search:
    def run(subject: Subject, watcher: Watcher) -> tuple[Shift, tuple[float, ...]]:
        t = int((subject.schedule.signal - settings.black_signals[0]).abs().argmin())
        moved_by, level = 1 - float(subject.schedule.signal[t]), float(subject.schedule.noise[t])
        eps = torch.randn(BATCH, *subject.shape, generator=generator(seed, "deep far-field")).to(subject.device)
        black = torch.full(subject.shape, -1.0, device=subject.device)
        window = place.on(torch.zeros(1, 1, *subject.shape[1:]) - 2)[0, 0].to(subject.device) > -2
        far = away_from(place, *subject.shape[1:]).to(subject.device)
        plain = subject.eps_chunked(moved_by * black + level * eps, t).clone()

        def loss(shift: Shift) -> Loss:
            change = (subject.eps(moved_by * shift + level * eps, t) - plain).mean(dim=0)
            energy = (moved_by * _root((shift - black).square().sum())).clamp(min=FLOOR)
            return -_root(change[:, far].square().mean()) / energy

        return _descend(loss, place.on(black[None])[0], window, watcher)

    return Search(f"far-field, from the {place}", BATCH + 3 * BATCH * STEPS, run)


def _root(value: Loss) -> Loss:
    """√value with a gradient at 0, where the network does not answer at all."""
    return (value + TINY).sqrt()


def _descend(
    loss: Callable[[Shift], Loss], start: Shift, window: Tensor | None, watcher: Watcher
) -> tuple[Shift, tuple[float, ...]]:
    """Descend by Adam within [−1, 1], where there is a window only in it; the best shift seen is kept."""
    shift = start.clone().requires_grad_()
    optimizer = torch.optim.Adam([shift], lr=LEARNING_RATE)
    best, losses = start.clone(), []
    watcher.stage("search by gradients", STEPS, "steps")
    for step in range(STEPS):
        value = loss(shift)
        (gradient,) = torch.autograd.grad(value, shift)
        if not math.isfinite(float(value.detach())) or not bool(gradient.isfinite().all()):
            return torch.full_like(start, math.nan).cpu(), tuple(losses)
        if not losses or float(value.detach()) < min(losses):
            best = shift.detach().clone()
        losses.append(float(value.detach()))
        shift.grad = gradient if window is None else gradient * window
        optimizer.step()
        with torch.no_grad():
            shift.clamp_(-1, 1)
        watcher.advance(step + 1, f"loss {losses[-1]:.4f}")
    return best.cpu(), tuple(losses)


def _start(start: str, shape: tuple[int, int, int], seed: int) -> Shift:
    uniform = torch.rand(shape, generator=generator(seed, "deep start", start))
    if start == "smooth":
        return fields(1, shape, derive(seed, "scan", "deep smooth"))[0]
    return {"negative": -uniform, "positive": uniform, "symmetric": 2 * uniform - 1}[start]
