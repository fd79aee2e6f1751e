"""Whether a value keeps to a JSON schema, without another package for it."""

from __future__ import annotations

import re
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None),
    "boolean": bool,
}  # fmt: skip


def violations(value: Any, schema: dict[str, Any], at: str = "$") -> list[str]:
    """What of a JSON schema a value violates: as much of draft 2020-12 as ours use."""
    known = {"$schema", "title", "description", "type", "const", "enum", "minimum", "maximum", "exclusiveMinimum"}
    assert set(schema) <= known | {"properties", "required", "additionalProperties", "items", "minItems", "pattern"}
    names = schema.get("type", [])
    types = [TYPES[name] for name in ([names] if isinstance(names, str) else names)]
    is_odd_bool = isinstance(value, bool) and bool not in types  # which Python takes for an integer
    if types and (is_odd_bool or not any(isinstance(value, kind) for kind in types)):
        return [f"{at}: {value!r} is no {names}"]
    found = []
    if "const" in schema and value != schema["const"]:
        found.append(f"{at}: {value!r} is not {schema['const']!r}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{at}: {value!r} is none of {schema['enum']}")
    if isinstance(value, int | float):
        low, high, above = (schema.get(key) for key in ("minimum", "maximum", "exclusiveMinimum"))
        if (low is not None and value < low) or (high is not None and value > high):
            found.append(f"{at}: {value} lies outside [{low}, {high}]")
        if above is not None and value <= above:
            found.append(f"{at}: {value} is not above {above}")
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{at}: {value!r} does not match {schema['pattern']}")
    if isinstance(value, list):
        if len(value) < schema.get("minItems", 0):
            found.append(f"{at}: {len(value)} items are too few")
        for index, item in enumerate(value):
            found += violations(item, schema.get("items", {}), f"{at}[{index}]")
    if isinstance(value, dict) and "properties" in schema:
        found += [f"{at}: {name} is missing" for name in schema["required"] if name not in value]
        for name, item in value.items():
            inner = schema["properties"].get(name)
            found += violations(item, inner, f"{at}.{name}") if inner else [f"{at}: {name} is not in the schema"]
    return found
