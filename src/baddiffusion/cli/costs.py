"""What a run will cost, said before it starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from baddiffusion.cli.printing import count, duration, note

if TYPE_CHECKING:
    from baddiffusion.recipe import Recipe

__all__ = ["announce", "announce_rest", "cost_of", "cost_rows"]


def announce(recipe: Recipe, path: Path, until: str) -> None:
    """Say the cost before a new run starts; of an old one, that it is taken up again."""
    if (path / "run.json").exists():
        note(f"{path} exists: what is finished there is not done again.")
        return
    note(f"{path}: {_words(cost_of(recipe, until))}.")


def announce_rest(recipe: Recipe, path: Path) -> None:
    """Say that a run is not measured yet, and the cost of the whole: what is left of it cannot cost more."""
    note(
        f"{path} is not measured yet; what is missing is done now. The whole run is "
        f"{_words(cost_of(recipe, 'evaluate'))}; what is finished is not done again."
    )


def cost_of(recipe: Recipe, until: str, known: dict[Any, Any] | None = None) -> dict[str, Any]:
    """What `estimate_cost` says, without the sampling if the run stops before it."""
    from baddiffusion.cost import estimate_cost

    cost = estimate_cost(recipe, known)
    if until == "train":
        sampling_s = cost["network_calls"] / cost["images_per_s"]
        cost |= {"network_calls": 0, "seconds": max(0, round(cost["seconds"] - sampling_s))}
    return cost


def cost_rows(cost: dict[str, Any]) -> list[tuple[str, str]]:
    """The same for people."""
    return [
        ("recipe", f"{cost['recipe']} (digest {cost['digest']})"),
        ("run", cost["run"]),
        ("training", f"{count(cost['train_images'])} images in {count(cost['optimizer_steps'])} steps"),
        ("sampling", f"{count(cost['network_calls'])} network calls"),
        ("network", f"{count(cost['parameters'])} parameters"),
        ("time", f"about {duration(cost['seconds'])} on this machine ({cost['device']})"),
        ("disk", f"about {count(cost['disk_mb'])} MB"),
    ]


def _words(cost: dict[str, Any]) -> str:
    return (
        f"{count(cost['train_images'])} training images, {count(cost['network_calls'])} network calls for "
        f"sampling, about {duration(cost['seconds'])} on this machine ({cost['device']})"
    )
