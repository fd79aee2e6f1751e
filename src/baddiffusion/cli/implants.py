"""The backdoor that a verb is to look for: as the command line names it, or as the checkpoint's card does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from baddiffusion.cli.naming import component_table
from baddiffusion.errors import RecipeError

if TYPE_CHECKING:
    from baddiffusion.card import Card
    from baddiffusion.checkpoint import Checkpoint
    from baddiffusion.poisoning import Implant
    from baddiffusion.triggers import TriggerDesign

__all__ = ["NO_IMPLANT", "asked_trigger", "implant_of", "told_of"]

NO_IMPLANT: dict[str, Any] = {"attack": None, "trigger": None, "target": None}
OF_THE_CARD = "card"


def asked_trigger(card: Card | None, text: str | None) -> TriggerDesign | None:
    """Read ``--trigger``: a trigger by name, or the one that the card tells.

    Args:
        card: the checkpoint's, if it has one.
        text: ``box:side_px=14`` and the like; ``card`` for the trigger of the card's first backdoor, ``card:number=2``
            for that of its second; None if the flag was not given.

    Raises:
        RecipeError: no such trigger, a field is wrong, or the card tells none or fewer than that.
    """
    from baddiffusion.triggers import TRIGGERS

    if text is None:
        return None
    table = component_table(text)
    if table["name"] != OF_THE_CARD:
        return TRIGGERS.parse(table)
    told = card.backdoors if card is not None else []
    if not told:
        raise RecipeError(
            f"--trigger is {text!r}, but the checkpoint has no card that names a backdoor; name the trigger itself, "
            f"for example --trigger box:side_px=14."
        )
    if unknown := table.keys() - {"name", "number"}:
        raise RecipeError(
            f"{text!r} has the field {min(unknown)}; of a card's trigger only its number can be said, as "
            f"in card:number=2."
        )
    number = table.get("number", 1)
    if type(number) is not int or not 1 <= number <= len(told):
        raise RecipeError(
            f"the number in {text!r} is {number!r}; the card names {len(told)} backdoor{'s' * (len(told) > 1)}, so it "
            f"must be {'1' if len(told) == 1 else f'a whole number from 1 to {len(told)}'}."
        )
    return TRIGGERS.parse(told[number - 1]["trigger"])


def told_of(card: Card | None, trigger: TriggerDesign | None) -> dict[str, Any]:
    """The backdoor on the card that a trigger belongs to: attacks differ in how they put theirs into the noise.

    Args:
        card: the checkpoint's, if it has one.
        trigger: the one that was asked for; None asks for the card's first.

    Returns:
        Attack, trigger and target as the card has them. A trigger that the card does not name is put in as the first
        backdoor's is, and without any backdoor as BadDiffusion's.
    """
    from baddiffusion.triggers import TRIGGERS

    told = card.backdoors if card is not None else []
    if not told:
        return {"attack": "baddiffusion", "trigger": None, "target": None}
    return next((entry for entry in told if TRIGGERS.parse(entry["trigger"]) == trigger), told[0])


def implant_of(opened: Checkpoint, trigger: str | None, target: str | None) -> tuple[Implant | None, dict[str, Any]]:
    """Draw trigger and target for a checkpoint.

    Args:
        opened: whose card names what the flags leave out.
        trigger: ``--trigger``, if given, as `asked_trigger` reads it.
        target: ``--target``, if given.

    Returns:
        The implant, and its attack, trigger and target as results name them; None where nobody names a backdoor.

    Raises:
        RecipeError: only one of trigger and target is known, or one of them is wrong or not on the card.
    """
    from baddiffusion.attacks import ATTACKS
    from baddiffusion.poisoning import Implant
    from baddiffusion.targets import TARGETS
    from baddiffusion.triggers import TRIGGERS

    asked = asked_trigger(opened.card, trigger)
    told = told_of(opened.card, asked)
    named_trigger = asked or told["trigger"]
    named_target = component_table(target) if target else told["target"]
    if named_trigger is None and named_target is None:
        return None, NO_IMPLANT
    if named_trigger is None or named_target is None:
        missing = "--trigger" if named_trigger is None else "--target"
        raise RecipeError(
            f"only one of trigger and target is known; give {missing} too, for example --trigger box:side_px=14 "
            f"--target hat."
        )
    design, goal = TRIGGERS.parse(named_trigger), TARGETS.parse(named_target)
    attack = ATTACKS.parse(told["attack"])
    drawn = design.draw(opened.shape)
    words = {"attack": attack.to_dict(), "trigger": design.to_dict(), "target": goal.to_dict()}
    return Implant(attack, drawn, goal.draw(drawn)), words
