"""Convert the arguments that a model gives to those that a function takes.

Small models write ``"5"`` for 5 and ``"true"`` for true. A value with one sensible reading is converted. For any other
the error tells the model which argument is wrong, and what is expected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, Callable

from pibot.contracts import bounded_int
from pibot.tool_registry.signature import Signature

_INTEGER = re.compile(r"[+-]?\d{1,30}\Z")
_EXPECTED = {
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}
_KINDS = {str: "string", int: "integer", float: "number", bool: "boolean", list: "array", dict: "object"}
_SHOWN_CHARS = 60


class Misfit(Exception):
    """An argument is wrong; the message tells the model what it gave and what is expected."""


def fit_arguments(signature: Signature, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments to call the function with.

    Raises:
        Misfit: arguments are missing, unknown or wrong; the message names all of them.
    """
    properties = signature.parameters["properties"]
    required = signature.parameters.get("required", [])
    problems = []
    fitted: dict[str, Any] = {}
    for name, value in given.items():
        if name not in properties:
            known = ", ".join(properties) or "none"
            problems.append(f"there is no argument {_shown(name)} (the arguments are: {known})")
        elif value is not None or name in required:  # null for an optional argument means leaving it out
            try:
                fitted[name] = _fit(properties[name], value)
            except Misfit as exc:
                problems.append(f"argument {name!r} {exc}")
    problems += [
        f"argument {name!r} is missing: {expected(properties[name])}" for name in required if name not in given
    ]
    if problems:
        raise Misfit("; ".join(problems))
    return {**dict.fromkeys(signature.or_none), **fitted}


def expected(schema: Mapping[str, Any]) -> str:
    """Describe in words what a schema expects."""
    if "enum" in schema:
        return "one of " + ", ".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(expected(s) for s in schema["anyOf"])
    words = _EXPECTED.get(schema.get("type", ""), "a value")
    if schema.get("type") == "array" and schema.get("items"):
        words += f" whose items are each {expected(schema['items'])}"
    if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
        words += f" whose values are each {expected(schema['additionalProperties'])}"
    return words


def _fit(schema: Mapping[str, Any], value: Any) -> Any:
    """Convert ``value`` to the schema's type, if there is one sensible reading.

    Raises:
        Misfit: there is none.
    """
    # Try the alternative of the value's own type first, so that "007" stays a text where a text is allowed.
    kind = _KINDS.get(type(value))
    for alternative in sorted(schema.get("anyOf", ()), key=lambda s: bool(s.get("type") != kind)):
        try:
            return _fit(alternative, value)
        except Misfit:
            continue
    kind = schema.get("type")
    if kind is None and "anyOf" not in schema:
        return value
    fits = _READERS[kind](value) if kind is not None else _NOTHING
    if fits is _NOTHING:
        raise Misfit(f"must be {expected(schema)}, not {_shown(value)}")
    if "enum" in schema:
        return _fit_enum(schema, fits)
    if kind == "array" and "items" in schema:
        return [_fit_inner(schema["items"], item, f"item {number}") for number, item in enumerate(fits, 1)]
    inner = schema.get("additionalProperties")
    if kind == "object" and isinstance(inner, dict):
        return {key: _fit_inner(inner, item, _shown(key)) for key, item in fits.items()}
    return fits


def _fit_enum(schema: Mapping[str, Any], value: Any) -> Any:
    for choice in schema["enum"]:
        if choice == value or (isinstance(value, str) and choice.casefold() == value.strip().casefold()):
            return choice
    raise Misfit(f"must be {expected(schema)}, not {_shown(value)}")


def _fit_inner(schema: Mapping[str, Any], value: Any, where: str) -> Any:
    try:
        return _fit(schema, value)
    except Misfit as exc:
        raise Misfit(f"has {where}, which {exc}") from None


_NOTHING: Any = object()


def _string(value: Any) -> Any:
    if isinstance(value, str):
        # Half an escaped emoji can't be encoded: no file can have that name, and no command that argument.
        return value.encode("utf-8", "replace").decode("utf-8")
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else _NOTHING


def _integer(value: Any) -> Any:
    if isinstance(value, str) and _INTEGER.match(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else _NOTHING


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return _NOTHING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return _NOTHING
    return value if math.isfinite(value) else _NOTHING


def _boolean(value: Any) -> Any:
    if isinstance(value, str):
        value = {"true": True, "false": False}.get(value.strip().lower(), value)
    return value if isinstance(value, bool) else _NOTHING


def _decoded(value: Any) -> Any:
    """Decode a list or an object that the model wrote as a JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value, parse_int=bounded_int)
        except (ValueError, RecursionError):
            return value
    return value


def _array(value: Any) -> Any:
    value = _decoded(value)
    if isinstance(value, (str, int, float)):
        return [value]
    return list(value) if isinstance(value, (list, tuple)) else _NOTHING


def _object(value: Any) -> Any:
    value = _decoded(value)
    return dict(value) if isinstance(value, Mapping) else _NOTHING


_READERS: dict[str, Callable[[Any], Any]] = {
    "string": _string,
    "integer": _integer,
    "number": _number,
    "boolean": _boolean,
    "array": _array,
    "object": _object,
}


def _shown(value: Any) -> str:
    """Return a value as JSON for a message, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
