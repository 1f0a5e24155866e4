"""Write the parameters of tools in as much JSON Schema as a provider knows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pibot.contracts import JsonObject
from pibot.llm_client.profiles import Schema

_DEPTH = 24
"""Levels of a schema that are written; what is deeper, or refers to itself, becomes an open schema."""

_SUBSET = frozenset(
    {
        *("type", "title", "description", "nullable", "enum", "properties", "required", "items", "anyOf", "default"),
        *("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format"),
    }
)
"""Keywords of Gemini's schema (Gemini API reference, *Schema*)."""

_FORMATS = {
    "string": frozenset({"date-time", "enum"}),
    "number": frozenset({"float", "double"}),
    "integer": frozenset({"int32", "int64"}),
}


def tool(written: Any, schema: Schema) -> Any:
    """Return a tool of a request with its parameters in the given part of JSON Schema."""
    if schema is Schema.FULL or not isinstance(written, dict) or not isinstance(written.get("function"), dict):
        return written
    function = dict(written["function"])
    parameters = function.get("parameters")
    if isinstance(parameters, dict):
        function["parameters"] = simplified(parameters, schema)
        if schema is Schema.SUBSET and not function["parameters"].get("properties"):
            del function["parameters"]  # Gemini refuses an object without properties
    if schema is Schema.SUBSET:
        function.pop("strict", None)
    return {**written, "function": function}


def simplified(written: JsonObject, schema: Schema) -> JsonObject:
    """Return a JSON Schema in the given part of the language."""
    if schema is Schema.SUBSET:
        return _subset(written, written, 0)
    single: JsonObject = written if schema is Schema.FULL else _single_types(written, 0)
    return single


def _single_types(written: Any, depth: int) -> Any:
    if isinstance(written, list):
        return [_single_types(item, depth + 1) for item in written]
    if not isinstance(written, dict) or depth > 2 * _DEPTH:
        return written
    result = {name: _single_types(value, depth + 1) for name, value in written.items()}
    types = written.get("type")
    return _with_type(result, types) if isinstance(types, list) else result


def _with_type(schema: JsonObject, types: list[Any]) -> JsonObject:
    """Return the schema with one type, or with a choice of schemas that have one each."""
    named = [kind for kind in types if isinstance(kind, str) and kind != "null"]
    rest = {name: value for name, value in schema.items() if name != "type"}
    if len(named) == 1:
        return {"type": named[0], **rest}
    if not named or "anyOf" in rest:
        return rest
    about: JsonObject = {name: rest[name] for name in ("description", "default", "title") if name in rest}
    limits = {name: value for name, value in rest.items() if name not in about}
    return {**about, "anyOf": [{"type": kind, **_fitting(limits, kind)} for kind in named]}


_OF_TYPE = {
    "array": ("items", "minItems", "maxItems", "uniqueItems"),
    "object": ("properties", "required", "additionalProperties"),
    "string": ("pattern", "format", "minLength", "maxLength"),
}


def _fitting(limits: JsonObject, kind: str) -> JsonObject:
    """Return the keywords that do not belong to another type."""
    others = {name for other, names in _OF_TYPE.items() if other != kind for name in names}
    return {name: value for name, value in limits.items() if name not in others}


def _subset(written: Any, root: JsonObject, depth: int) -> JsonObject:
    """Return one schema in Gemini's subset."""
    if not isinstance(written, dict) or depth > _DEPTH:
        return {}
    if isinstance(written.get("$ref"), str):
        found = _referred(root, written["$ref"])
        written = {**found, **{name: value for name, value in written.items() if name != "$ref"}}
        if "$ref" in found:
            return _subset({**written, "$ref": found["$ref"]}, root, depth + 1)
    if isinstance(written.get("type"), list):
        nullable = "null" in written["type"]
        written = _with_type(written, written["type"])
        written = {**written, "nullable": True} if nullable else written
    written = _joined(written)
    result: JsonObject = {}
    for name, value in written.items():
        if name == "properties" and isinstance(value, dict):
            result[name] = {key: _subset(item, root, depth + 1) for key, item in value.items()}
        elif name == "items":
            result[name] = _subset(value[0] if isinstance(value, list) and value else value, root, depth + 1)
        elif name == "anyOf" and isinstance(value, list):
            result.update(_choice(value, root, depth))
        elif name in _SUBSET:
            result[name] = value
    if depth and result.get("type") == "object" and not result.get("properties"):
        # Gemini refuses an object of any names. Tools take a JSON object as text too.
        about = f"{result.get('description', '')} (a JSON object, written as text)".strip()
        return {"type": "string", "description": about}
    return _tidied(result)


def _joined(written: JsonObject) -> JsonObject:
    """Return the schema with ``const``, ``oneOf`` and ``allOf`` in the words that the subset has."""
    if "const" in written and "enum" not in written:
        written = {**written, "enum": [written["const"]]}
    if isinstance(written.get("oneOf"), list) and "anyOf" not in written:
        written = {**written, "anyOf": written["oneOf"]}
    for part in written.get("allOf") or () if isinstance(written.get("allOf"), list) else ():
        if isinstance(part, dict):
            properties = {**(written.get("properties") or {}), **(part.get("properties") or {})}
            required = [*(written.get("required") or ()), *(part.get("required") or ())]
            written = {**part, **written}
            written.update({"properties": properties} if properties else {})
            written.update({"required": required} if required else {})
    return written


def _choice(parts: list[Any], root: JsonObject, depth: int) -> JsonObject:
    """Return the keywords for a choice of schemas; null among them becomes ``nullable``."""
    kept = [part for part in parts if not (isinstance(part, dict) and part.get("type") == "null")]
    schemas = [_subset(part, root, depth + 1) for part in kept]
    nullable = {"nullable": True} if len(kept) < len(parts) else {}
    if len(schemas) == 1:
        return {**schemas[0], **nullable}
    return {"anyOf": schemas, **nullable} if schemas else nullable


def _tidied(schema: JsonObject) -> JsonObject:
    """Return the schema without values that fit no keyword of the subset."""
    kind = schema.get("type")
    if "format" in schema and schema["format"] not in _FORMATS.get(str(kind), ()):
        del schema["format"]
    if "enum" in schema:
        values = schema["enum"] if isinstance(schema["enum"], list) else []
        if kind in (None, "string") and values and all(isinstance(value, str) and value for value in values):
            schema["type"] = "string"
        else:
            del schema["enum"]  # Gemini knows lists of texts alone
    if "properties" in schema and "required" in schema:
        schema["required"] = [name for name in schema["required"] if name in schema["properties"]]
        if not schema["required"]:
            del schema["required"]
    if kind == "array" and not schema.get("items"):
        schema["items"] = {"type": "string"}  # Gemini refuses an array without items
    return schema


def _referred(root: JsonObject, reference: str) -> JsonObject:
    """Return the schema that a local reference names; an open one if there is none."""
    found: Any = root
    for step in reference.lstrip("#").strip("/").split("/"):
        found = found.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(found, Mapping) else None
    return dict(found) if isinstance(found, Mapping) and found is not root else {}
