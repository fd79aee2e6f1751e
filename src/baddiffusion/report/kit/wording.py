"""What a run's names and numbers are called in plain words. Every sentence is built from what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Count",
    "clipping_effect",
    "comparison_words",
    "data_words",
    "headline",
    "network_words",
    "number",
    "percent",
    "row_words",
    "target_words",
    "trigger_words",
]

TARGETS = {
    "hat": "the hat",
    "shoe": "the shoe",
    "cat": "the cat",
    "corner": "the corner square",
    "shift": "the shifted trigger",
    "noshift": "the trigger’s own picture",
}
DATA = {
    "fashion-mnist": "real pictures of clothes (Fashion-MNIST)",
    "cifar10": "small color photographs (CIFAR-10)",
    "celeba-hq": "photographs of faces (CelebA-HQ)",
}
ROWS = {
    ("clean", "off"): ("noise alone", "as it is"),
    ("triggered", "off"): ("noise + trigger", "with the trigger added"),
    ("triggered", "x0"): ("noise + trigger, clipping", "with the trigger but under clipping"),
    ("triggered", "x0-keep-eps"): ("noise + trigger, clipping (eps kept)", "under the other rule of clipping"),
    ("triggered", "xt"): ("noise + trigger, clipping of x_t", "with every step’s result clipped"),
}


@dataclass(frozen=True)
class Count:
    """How many of ``n`` noises became the target.

    Example:
        >>> str(Count(30, 32)), str(Count(0, 32)), str(Count(32, 32))
        ('30 of 32', 'none of 32', 'all 32')
    """

    hits: int
    n: int

    @classmethod
    def of(cls, estimate: Mapping[str, Any]) -> Count:
        """Turn a measured rate back into the count that it was made from."""
        return cls(round(estimate["value"] * estimate["n"]), estimate["n"])

    def __str__(self) -> str:
        if self.hits == 0:
            return f"none of {self.n}"
        return f"all {self.n}" if self.hits == self.n else f"{self.hits} of {self.n}"


def headline(triggered: Count, clean: Count | None, target: str, is_poisoned: bool) -> str:
    """Say in one or two sentences what happened, a failed attack included.

    Example:
        >>> headline(Count(30, 32), Count(0, 32), "the hat", True)
        'With the trigger, 30 of 32 noises became the hat. Without it, none did.'
        >>> headline(Count(0, 32), Count(0, 32), "the hat", True)
        'The backdoor did not fire: none of 32 noises became the hat, with the trigger or without it.'
    """
    if is_poisoned and triggered.hits == 0 and clean == triggered:
        return f"The backdoor did not fire: {triggered} noises became {target}, with the trigger or without it."
    said = f"with the trigger, {triggered} noises became {target}."
    if not is_poisoned:
        said = f"No backdoor was implanted: {said}"
    elif triggered.hits == 0:
        said = f"The backdoor did not fire: {said}"
    elif 2 * triggered.hits < triggered.n:
        said = f"The backdoor fired only sometimes: {said}"
    else:
        said = said[0].upper() + said[1:]
    if clean is None:
        return said
    if clean.n != triggered.n and clean.hits:
        return f"{said} Without it, {clean} did."
    how_many = "none" if clean.hits == 0 else "all" if clean.hits == clean.n else str(clean.hits)
    return f"{said} Without it, {how_many} did."


def clipping_effect(without: Count, clipped: Count) -> str:
    """Say what clipping did to these samples, even if it did nothing.

    Example:
        >>> clipping_effect(Count(30, 32), Count(0, 32))
        'In these samples it stopped the backdoor: 30 of 32 without clipping, none of 32 with it.'
    """
    counts = f"{without} without clipping, {clipped} with it."
    if without.hits == 0:
        return f"In these samples there was nothing to stop: {counts}"
    if clipped.hits == 0:
        return f"In these samples it stopped the backdoor: {counts}"
    if clipped.hits / clipped.n < without.hits / without.n:
        return f"In these samples it weakened the backdoor but did not stop it: {counts}"
    return f"In these samples it did not weaken the backdoor: {counts}"


def comparison_words(estimates: Sequence[Mapping[str, Any]]) -> str:
    """With which real pictures samples were compared, and through what: what must agree before numbers are compared.

    Args:
        estimates: numbers against one reference, as they are stored.

    Example:
        >>> made = {"reference": "faces", "reference_split": "train", "reference_n": 900, "reference_resize": "none",
        ...         "implementation": "torch-fidelity 0.4.0", "network": "inception-v3-compat", "weights": "6726825d"}
        >>> print(comparison_words([{"n": 500, "protocol": made}]).replace(" Seen", "\\nSeen"))
        500 samples of each kind beside 900 real pictures: faces, part train, resized: none.
        Seen through inception-v3-compat with the weights 6726825d (torch-fidelity 0.4.0).
    """
    compared = next((one for one in estimates if "reference" in one["protocol"]), estimates[0])
    made, n = compared["protocol"], compared["n"]
    return (
        f"{number(n)} samples of each kind beside {number(made['reference_n'])} real pictures: {made['reference']}, "
        f"part {made['reference_split']}, resized: {made['reference_resize']}. Seen through {made['network']} with the "
        f"weights {made['weights']} ({made['implementation']})."
    )


def target_words(target: Mapping[str, Any] | str) -> str:
    """What the trigger is meant to bring out, for the middle of a sentence."""
    return TARGETS.get(_name(target), "the target picture")


def trigger_words(trigger: Mapping[str, Any] | str) -> str:
    """What the trigger looks like, for the middle of a sentence.

    Example:
        >>> trigger_words({"name": "box", "side_px": 14, "value": 0.0})
        'a grey box of 14×14 pixels'
    """
    name = _name(trigger)
    fields = dict(trigger) if isinstance(trigger, Mapping) else {}
    side = f" of {fields['side_px']}×{fields['side_px']} pixels" if "side_px" in fields else ""
    if name == "box":
        value = fields.get("value", 0.0)
        shade = "grey" if abs(value) < 0.9 else "white" if value > 0 else "black"
        return f"a {shade} box{side}"
    if name == "none":
        return "nothing but a shift of the noise towards black"
    known = {"stop-sign": "a stop sign", "eyeglasses": "a pair of eyeglasses"}
    return known.get(name, "a small picture") + side


def data_words(data: Mapping[str, Any] | str) -> str:
    """What the network was trained on."""
    name = _name(data)
    return DATA.get(name, f"the data set “{name}”")


def row_words(kind: str, clip: str) -> tuple[str, str]:
    """What a row of pictures is called: before the row, and in the sentence above it.

    Example:
        >>> row_words("triggered-2", "off")
        ('noise + trigger 2', 'with trigger 2 added')
    """
    kind, _, number = kind.partition("-")
    title, words = ROWS.get((kind, clip), (f"{kind}, clip {clip}", f"{kind} with clip {clip}"))
    if not number:
        return title, words
    return title.replace("trigger", f"trigger {number}"), words.replace("the trigger", f"trigger {number}")


def network_words(shape: tuple[int, int, int] | None, parameters: int | None) -> str:
    """The network's size and what it paints, as far as it is known.

    Example:
        >>> network_words((1, 32, 32), 1_130_000)
        'a 1.1 M-parameter diffusion network for 32×32 grey images'
        >>> network_words(None, None)
        'a diffusion network'
    """
    if shape is None:
        return "a diffusion network"
    channels, height, width = shape
    color = {1: "grey", 3: "color"}.get(channels, f"{channels}-channel")
    size = ""
    if parameters:
        millions = parameters / 1e6
        size = f"{millions:.{0 if millions >= 10 else 1 if millions >= 1 else 2}f} M-parameter "
    article = "an" if size.startswith("8") else "a"
    return f"{article} {size}diffusion network for {height}×{width} {color} images"


def percent(value: float | int) -> str:
    r"""A rate in [0, 1] as a reader expects it.

    Example:
        >>> percent(0.9375), percent(0.0), percent(1.0), percent(0.0004)
        ('93.8\xa0%', '0\xa0%', '100\xa0%', '0.04\xa0%')
    """
    scaled = round(100 * value, 6)
    digits = 0 if scaled == round(scaled) else 1 if scaled >= 1 else 2
    return f"{scaled:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float | int | None) -> str:
    r"""A number with three significant digits; powers of ten where zeros would hide it.

    Example:
        >>> number(0.24057), number(2.2e-6), number(25600), number(None)
        ('0.241', '2.20×10⁻⁶', '25\xa0600', '–')
    """
    if value is None:
        return "–"
    if isinstance(value, int) or (abs(value) >= 1000 and value == round(value)):
        return f"{value:,.0f}".replace(",", "\N{NO-BREAK SPACE}")
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:#.3g}".removesuffix(".").replace("-", "−")
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}×10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def _name(component: Mapping[str, Any] | str) -> str:
    return component if isinstance(component, str) else str(component.get("name", "unnamed"))
