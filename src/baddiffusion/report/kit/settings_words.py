"""What the varied settings of a sweep are called in a table, a legend and a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from baddiffusion.errors import BadDiffusionError
from baddiffusion.registry import Registry
from baddiffusion.report.kit.wording import number, percent, target_words, trigger_words
from baddiffusion.targets import TARGETS
from baddiffusion.triggers import TRIGGERS

__all__ = ["joined", "key_words", "settings_words", "sort_value", "value_words"]

TITLES = {
    "attack": "Attack",
    "clip": "Clipping",
    "data": "Data",
    "model.base": "Weights from",
    "poison.rate": "Poison rate",
    "rate": "Poison rate",
    "sampling.sampler": "Sampler",
    "sampling.num_inference_steps": "Sampling steps",
    "size": "Trigger size (px)",
    "target": "Target",
    "training": "Share of the training",
    "training.max_train_steps": "Training steps",
    "training.num_epochs": "Epochs",
    "trigger": "Trigger",
}


def key_words(key: str) -> str:
    """A setting's name as a column is headed.

    Example:
        >>> key_words("poison.rate"), key_words("training.learning_rate")
        ('Poison rate', 'Learning rate')
    """
    words = key.rpartition(".")[2].replace("_", " ")
    return TITLES.get(key, words[:1].upper() + words[1:])


def value_words(key: str, value: Any) -> str:
    r"""A setting's value as people read it.

    Example:
        >>> value_words("poison.rate", 0.05), value_words("trigger", "BOX_14"), value_words("target", "HAT")
        ('5\xa0%', 'grey box, 14 px', 'hat')
        >>> value_words("sampling.sampler", {"name": "ddim", "eta": 0.5})
        'ddim (eta 0.5)'
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key.rpartition(".")[2] == "rate" and isinstance(value, int | float) and 0 <= value <= 1:
        return percent(value)
    if isinstance(value, int | float):
        return number(value)
    if key == "trigger" and (found := _component(TRIGGERS, value)):
        return _bare(trigger_words(found))
    if key == "target" and (found := _component(TARGETS, value)):
        return _bare(target_words(found))
    return _plain(value)


def settings_words(settings: Mapping[str, Any], keys: Iterable[str] | None = None) -> str:
    r"""Several settings for the middle of a sentence; what speaks for itself goes without its name.

    Example:
        >>> settings_words({"trigger": "STOP_SIGN_14", "poison.rate": 0.1, "training.num_epochs": 5})
        'stop sign, 14 px · 10\xa0% poison · epochs 5'
    """
    said = []
    for key in settings if keys is None else keys:
        words = value_words(key, settings.get(key))
        if key in ("poison.rate", "rate"):
            words = f"{words} poison"
        elif key not in ("trigger", "target") and not isinstance(settings.get(key), str | Mapping):
            words = f"{key_words(key).lower()} {words}"
        said.append(words)
    return " · ".join(said)


def sort_value(key: str, value: Any) -> float | str | None:
    """What a column is sorted by; nothing where there is no value."""
    if value is None:
        return None
    return float(value) if isinstance(value, int | float) else value_words(key, value)


def joined(parts: Sequence[str], last: str = "and") -> str:
    """A list inside a sentence.

    Example:
        >>> joined(["a"]), joined(["a", "b", "c"])
        ('a', 'a, b and c')
    """
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}" if len(parts) > 1 else "".join(parts)


def _component(registry: Registry[Any], value: Any) -> dict[str, Any] | None:
    try:
        return registry.parse(value).to_dict()
    except BadDiffusionError:
        return None


def _bare(words: str) -> str:
    """Without its article, the size behind."""
    words = words.removeprefix("a ").removeprefix("the ")
    name, of, size = words.partition(" of ")
    return f"{name}, {size.partition('×')[0]} px" if of and "×" in size else words


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        name = str(value.get("name", ""))
        rest = ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if key != "name")
        return f"{name} ({rest})" if name and rest else name or rest
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)
