"""Typed, frozen settings whose mistakes are told in one line."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from baddiffusion.errors import RecipeError, nearest

__all__ = ["Settings"]

PLAINER = {"greater than or equal to": "at least", "less than or equal to": "at most", "greater than": "more than"}
"""pydantic's words for a bound that stands inside a union, and ours."""


class Settings(BaseModel):
    """A frozen group of settings; unknown keys and wrong values raise `RecipeError` with the full key.

    A field may carry ``json_schema_extra={"hint": "..."}``: the sentence that tells how to write it right.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise RecipeError(_first_mistake(error, type(self))) from None


def _first_mistake(error: ValidationError, model: type[BaseModel]) -> str:
    mistake = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in mistake["loc"])
    cause = mistake.get("ctx", {}).get("error")
    if isinstance(cause, RecipeError):
        return f"{path}.{cause}" if path else str(cause)
    field = model.model_fields.get(str(mistake["loc"][0])) if mistake["loc"] else None
    if mistake["type"] == "extra_forbidden":
        return (
            f"{path} is not a known key. {nearest(path, model.model_fields)}"
            f"Known keys: {', '.join(sorted(model.model_fields))}."
        )
    if mistake["type"] == "missing":
        return f"{path} is missing. {_hint(field)}".rstrip()
    if cause is not None:
        return f"{path} {cause}" if path else str(cause)
    return f"{path} is {mistake['input']!r}; {_requirement(mistake, field)}. {_hint(field)}".rstrip()


def _requirement(mistake: Any, field: FieldInfo | None) -> str:
    bounds = _bounds(field) if field is not None else ""
    if bounds and mistake["type"] in {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}:
        return f"it must {bounds}"
    if mistake["type"] == "model_type":
        return "it must be a table"
    message = str(mistake["msg"])
    if message.startswith("Input should be "):
        requirement = message.removeprefix("Input should be ")
        for theirs, ours in PLAINER.items():
            requirement = requirement.replace(theirs, ours)
        return "it must be " + requirement
    return message[0].lower() + message[1:]


def _bounds(field: FieldInfo) -> str:
    low = high = None
    for rule in field.metadata:
        for name, bracket in (("ge", "["), ("gt", "(")):
            if getattr(rule, name, None) is not None:
                low = (bracket, getattr(rule, name))
        for name, bracket in (("le", "]"), ("lt", ")")):
            if getattr(rule, name, None) is not None:
                high = (bracket, getattr(rule, name))
    if low and high:
        return f"lie in {low[0]}{low[1]}, {high[1]}{high[0]}"
    if low:
        return f"be {'at least' if low[0] == '[' else 'more than'} {low[1]}"
    if high:
        return f"be {'at most' if high[0] == ']' else 'less than'} {high[1]}"
    return ""


def _hint(field: FieldInfo | None) -> str:
    extra = field.json_schema_extra if field is not None else None
    return str(extra.get("hint", "")) if isinstance(extra, dict) else ""
