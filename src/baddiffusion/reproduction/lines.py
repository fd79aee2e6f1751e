"""What each experiment measures, as lines of its table: which run is read, and what else is asked of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from baddiffusion.matrix import Column
from baddiffusion.metrics.reference import QUOTABLE_N
from baddiffusion.recipe import Recipe
from baddiffusion.reproduction.asking import Ask, Sampling, Source, StoredQuality, attack, quality
from baddiffusion.reproduction.chains import MOST_FOLLOWED, MOST_MENDED, Inpainting, Latents
from baddiffusion.reproduction.perturbing import Perturbation, perturbations
from baddiffusion.sampling import ClipKind
from baddiffusion.sweep import Cell
from baddiffusion.triggers import TriggerDesign

__all__ = [
    "SIZES",
    "Label",
    "Line",
    "clipping",
    "high_resolution",
    "inpainting",
    "latents",
    "over_training",
    "perturbed",
    "poison_rates",
    "samplers",
    "samples",
    "scratch",
    "trigger_sizes",
]

Label = str | int | float
SIZES = {"cifar10": 60_000, "celeba-hq": 30_000, "fashion-mnist": 60_000}
"""Images of the data sets that the presets name: what an epoch is, said without opening them."""

TRIGGERS = {"box": "Grey Box", "stop-sign": "Stop Sign", "eyeglasses": "Eyeglasses"}
TARGETS = {"noshift": "NoShift", "shift": "Shift", "corner": "Corner", "shoe": "Shoe", "hat": "Hat", "cat": "Cat"}
SAMPLERS = {"DDIM-50": ("ddim", 50), "DPM-Solver-2-20": ("dpm-solver", 20), "DPM-Solver++-2-20": ("dpm-solver++", 20)}
CORRUPTIONS = ("blur", "line", "box")
QUALITY = ("kd_efflite0", "fid")
ATTACK = ("asr", "mse", "ssim")


@dataclass(frozen=True)
class Line:
    """One line of an experiment's table for one seed.

    Args:
        labels: what the line is called, in the paper's words.
        source: the model that it is about.
        run: the run whose numbers are read; empty for none.
        kinds: of these numbers: of the ``triggered`` images, of the ``clean`` ones, or of the ``base``.
        clip: of the triggered ones.
        asks: what else is measured.
        meets: labels under which the paper has it, where they differ.
    """

    labels: Mapping[str, Label]
    source: Source
    run: str = ""
    kinds: tuple[Literal["triggered", "clean", "base"], ...] = ("triggered", "clean")
    clip: ClipKind = "off"
    asks: tuple[Ask, ...] = ()
    meets: Mapping[str, Label] = field(default_factory=dict)

    @property
    def place(self) -> Mapping[str, Label]:
        """Where the paper's number for it is looked up."""
        return {**self.labels, **self.meets}

    @property
    def is_backdoored(self) -> bool:
        """Whether something was implanted."""
        return bool(self.source.key) and bool(self.source.recipe.backdoors)

    def reads(self, name: str, kind: object, clip: object) -> bool:
        """Whether a number of the run belongs into the line."""
        if kind == "triggered":
            return "triggered" in self.kinds and clip == self.clip and name in ATTACK
        return kind in self.kinds and clip == "off" and name in (*QUALITY, "false_trigger_rate")


def words(recipe: Recipe) -> dict[str, Label]:
    """A recipe's setting in the paper's words.

    Example:
        >>> words(Recipe.load("demo"))
        {'trigger': 'Grey Box', 'size': 14, 'target': 'Hat', 'rate': 0.1, 'model': 'fine-tuned'}
    """
    model = "fine-tuned" if recipe.model.base else "from scratch"
    return {
        "trigger": _trigger(recipe.trigger),
        "size": int(getattr(recipe.trigger, "side_px", 0)),
        "target": TARGETS.get(recipe.target.component_name, recipe.target.component_name),
        "rate": recipe.poison.rate,
        "model": model if recipe.poison.rate else f"{model} without poison",
    }


def _trigger(design: TriggerDesign) -> str:
    name = TRIGGERS.get(design.component_name, design.component_name)
    return "White Box" if name == "Grey Box" and getattr(design, "value", 0.0) > 0.9 else name


def _labels(recipe: Recipe, *names: str) -> dict[str, Label]:
    found = words(recipe)
    return {name: found[name] for name in names}


def _trained(cell: Cell) -> Source:
    return Source(cell.key, None, cell.recipe)


def _clean(cell: Cell) -> Source:
    return Source("", None, cell.recipe)


def _fid(source: Source) -> tuple[Ask, ...]:
    """FID of what the run sampled anyway, where that is enough."""
    sampled = source.recipe.sampling
    return (StoredQuality(source),) if not source.recipe.evaluation.quality_n and sampled.n >= QUOTABLE_N else ()


def _run_line(cell: Cell, *names: str) -> Line:
    source = _trained(cell)
    return Line(_labels(cell.recipe, *names), source, cell.key, asks=_fid(source))


def _clean_line(cell: Cell, first: Cell, labels: Mapping[str, Label], *asks: Ask) -> Line:
    """The model before the attack: its quality stands in every run that has a base, or is asked once."""
    measured = bool(cell.recipe.evaluation.quality_n)
    judged = () if measured else (quality(_clean(first)),)
    return Line(labels, _clean(cell), first.key if measured else "", ("base",), asks=(*asks, *judged))


def poison_rates(cells: Sequence[Cell]) -> list[Line]:
    """Every cell; and the model before the attack under each backdoor that has more than one rate."""
    names = ("trigger", "target", "rate", "model")
    lines = []
    for cell in cells:
        line = _run_line(cell, *names)
        if cell.recipe.data.component_name != cells[0].recipe.data.component_name:
            labels = {**line.labels, "data": cell.recipe.data.component_name}
            line = Line(labels, line.source, line.run, asks=line.asks, meets={"model": "fine-tuned"})
        lines.append(line)
    rates: dict[str, dict[float, Cell]] = {}
    for cell in cells:
        if cell.recipe.poison.rate:
            rates.setdefault(str(cell.recipe.designs[0]), {}).setdefault(cell.recipe.poison.rate, cell)
    for found in rates.values():
        if len(found) > 1:
            cell = next(iter(found.values()))
            labels = {**_labels(cell.recipe, "trigger", "target"), "rate": 0.0, "model": "pre-trained"}
            lines.append(_clean_line(cell, cells[0], labels, attack(_clean(cell))))
    return lines


def scratch(cells: Sequence[Cell]) -> list[Line]:
    """Every cell."""
    return [_run_line(cell, "target", "rate", "model") for cell in cells]


def over_training(cells: Sequence[Cell]) -> list[Line]:
    """Every cell after its training, and each of its snapshots."""
    lines = []
    for cell in cells:
        training = cell.recipe.training
        total = training.total_steps(SIZES[cell.recipe.data.component_name])
        labels = _labels(cell.recipe, "target", "rate")
        for step in training.snapshot_steps:
            source = Source(cell.key, step, cell.recipe)
            asks = (attack(source), quality(source))
            lines.append(Line({**labels, "training": round(step / total, 3)}, source, asks=asks))
        source = _trained(cell)
        lines.append(Line({**labels, "training": 1.0}, source, cell.key, asks=_fid(source)))
    return lines


def high_resolution(cells: Sequence[Cell]) -> list[Line]:
    """Every cell; and the quality of the model before the attack beside each trigger."""
    lines = [_run_line(cell, "trigger", "target", "rate", "model") for cell in cells]
    for cell in {_trigger(cell.recipe.trigger): cell for cell in cells}.values():
        labels = {**_labels(cell.recipe, "trigger", "target"), "rate": 0.0, "model": "pre-trained"}
        lines.append(_clean_line(cell, cells[0], labels))
    return lines


def clipping(cells: Sequence[Cell]) -> list[Line]:
    """Every cell without clipping and with it; and the quality of the model before the attack."""
    lines = []
    for cell in cells:
        source, labels = _trained(cell), _labels(cell.recipe, "target", "rate")
        lines.append(Line({**labels, "clip": "no"}, source, cell.key, asks=_fid(source)))
        sampled = "x0" in cell.recipe.sampling.clips
        asks = () if sampled else (attack(source, "x0"),)
        kinds: tuple[Literal["triggered"], ...] = ("triggered",) if sampled else ()
        run = cell.key if sampled else ""
        lines.append(Line({**labels, "clip": "yes"}, source, run, kinds, "x0", (*asks, quality(source, clip="x0"))))
    for cell in {str(cell.recipe.target): cell for cell in cells}.values():
        labels = {**_labels(cell.recipe, "target"), "rate": 0.0}
        lines.append(_clean_line(cell, cells[0], {**labels, "clip": "no"}))
        ask = quality(_clean(cells[0]), clip="x0")
        lines.append(Line({**labels, "clip": "yes"}, _clean(cell), asks=(ask,), clip="x0"))
    return lines


def perturbed(cells: Sequence[Cell]) -> list[Line]:
    """Every cell under each perturbation, and the model before the attack under the largest of each learning rate."""
    lines = []
    for source in (*map(_trained, cells), _clean(cells[0])):
        settings = perturbations(source.recipe)
        largest = max(method.perturbation_budget for method, _ in settings)
        rate = source.recipe.poison.rate if source.key else 0.0
        for method, published in settings:
            budget = method.perturbation_budget
            if source.key or budget == largest:
                told = {**_labels(source.recipe, "target"), "rate": rate, "method": method.label, "budget": budget}
                labels = {**told, "learning_rate": method.learning_rate}
                asks = (Perturbation(source, method),)
                lines.append(Line(labels, source, kinds=(), asks=asks, meets={"learning_rate": published}))
    return lines


def samplers(cells: Sequence[Cell]) -> list[Line]:
    """Every cell, and the model before the attack, under the three samplers of the paper's appendix E."""
    lines = []
    for cell in cells:
        for model, source in (("fine-tuned", _trained(cell)), ("pre-trained", _clean(cell))):
            judged = source if source.key else _clean(cells[0])
            for label, (name, steps) in SAMPLERS.items():
                column = Column.model_validate({"sampler": name, "steps": steps})
                asks = (
                    Sampling(source, "triggered", column, "off", cell.recipe.sampling.n),
                    quality(judged, column),
                )
                rate = cell.recipe.poison.rate if source.key else 0.0
                labels = {**_labels(cell.recipe, "target"), "rate": rate, "sampler": label, "model": model}
                lines.append(Line(labels, source, asks=asks))
    return lines


def inpainting(cells: Sequence[Cell]) -> list[Line]:
    """Three kinds of damage, each without the trigger and with it."""
    return [
        Line(
            {**_labels(cell.recipe, "trigger", "target", "rate"), "corruption": name, "pictures": pictures},
            _trained(cell),
            asks=(Inpainting(_trained(cell), name, triggered, min(cell.recipe.sampling.n, MOST_MENDED)),),
        )
        for cell in cells
        for name in CORRUPTIONS
        for pictures, triggered in (("as they are", False), ("with the trigger", True))
    ]


def latents(cells: Sequence[Cell]) -> list[Line]:
    """Triggered chains without clipping and with it."""
    each: dict[str, ClipKind] = {"no": "off", "yes": "x0"}
    return [
        Line(
            {**_labels(cell.recipe, "trigger", "target", "rate"), "clip": said},
            _trained(cell),
            clip=clip,
            asks=(Latents(_trained(cell), clip, min(cell.recipe.sampling.n, MOST_FOLLOWED)),),
        )
        for cell in cells
        for said, clip in each.items()
    ]


def samples(cells: Sequence[Cell]) -> list[Line]:
    """Every cell: its run has the pictures."""
    return [_run_line(cell, "trigger", "target", "rate") for cell in cells]


def trigger_sizes(cells: Sequence[Cell]) -> list[Line]:
    """Every cell."""
    return [_run_line(cell, "trigger", "size", "target", "rate") for cell in cells]


Lines = Callable[[Sequence[Cell]], list[Line]]
