"""Describe a function to a model: its docstring as the description, its signature as a JSON Schema."""

from __future__ import annotations

import collections.abc
import inspect
import re
import typing
from dataclasses import dataclass
from typing import Any, Callable, Literal, Union

from pibot.contracts import JsonObject, ToolContext
from pibot.errors import SkillError

_SECTION = re.compile(r"(Args|Arguments|Parameters|Returns?|Raises|Yields?|Examples?|Notes?):\s*\Z")
_ARGUMENT = re.compile(r"(\*{0,2}\w+)\s*(?:\([^)]*\))?:\s*(.*)\Z")
_SIMPLE: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean"}


@dataclass(frozen=True)
class Signature:
    """A tool's description and arguments.

    Args:
        description: the docstring up to its first section.
        parameters: the JSON Schema of the arguments that the model gives.
        context_parameters: the parameters that get the task's :class:`ToolContext`.
        or_none: optional arguments without a default, which are None if the model leaves them out.
    """

    description: str
    parameters: JsonObject
    context_parameters: tuple[str, ...] = ()
    or_none: tuple[str, ...] = ()


def read_signature(function: Callable[..., Any]) -> Signature:
    """Read a tool's description and arguments from its docstring and annotations.

    Raises:
        SkillError: it has no docstring, or a parameter of a type that JSON Schema can't describe.
    """
    where = f"{function.__name__}()"
    description, about = read_docstring(inspect.getdoc(function) or "")
    if not description:
        raise SkillError(f"{where} has no docstring: its first paragraph tells the model what the tool does")
    try:
        hints = typing.get_type_hints(function)
    except Exception as exc:  # evaluating an annotation may raise anything
        raise SkillError(f"{where}: an annotation can't be evaluated ({exc}); Python 3.9 wants Optional[X]") from exc
    properties: JsonObject = {}
    required: list[str] = []
    or_none: list[str] = []
    context: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise SkillError(f"{where}: parameter {name!r} can't be given by name, and tools are called by names")
        if name not in hints:
            raise SkillError(f"{where}: annotate {name!r} with a type, or start the function's name with _")
        if hints[name] is ToolContext:
            context.append(name)
            continue
        annotation, optional = _without_none(hints[name])
        try:
            schema = _schema_of(annotation)
        except _NoSchema as exc:
            raise SkillError(f"{where}: parameter {name!r}: {exc}") from None
        if name in about:
            schema["description"] = about[name]
        if parameter.default is not parameter.empty:
            if isinstance(parameter.default, (bool, int, float, str)):
                schema["default"] = parameter.default
        else:
            (or_none if optional else required).append(name)
        properties[name] = schema
    unknown = sorted(set(about) - set(properties) - set(context))
    if unknown:
        raise SkillError(f"{where}: the docstring describes {unknown[0]!r}, which is no parameter")
    parameters: JsonObject = {"type": "object", "properties": properties, "additionalProperties": False}
    if required:
        parameters["required"] = required
    return Signature(description, parameters, tuple(context), tuple(or_none))


def read_docstring(text: str) -> tuple[str, dict[str, str]]:
    """Split a docstring into the text before its first section and the descriptions of the parameters."""
    description: list[str] = []
    about: dict[str, str] = {}
    section = argument = None
    indent = 0
    for line in text.splitlines():
        stripped = line.strip()
        header = _SECTION.match(line)
        if header:
            section, argument = header.group(1), None
        elif section is None:
            description.append(line)
        elif section in ("Args", "Arguments", "Parameters") and stripped:
            depth = len(line) - len(line.lstrip())
            match = _ARGUMENT.match(stripped)
            if match and (argument is None or depth <= indent):
                argument, indent = match.group(1), depth
                about[argument] = match.group(2)
            elif argument is not None:
                about[argument] = f"{about[argument]} {stripped}".strip()
    return "\n".join(description).strip(), about


class _NoSchema(Exception):
    """JSON Schema can't describe this type."""


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Return ``X`` and True for ``Optional[X]``. The schema leaves out null: the model omits the argument instead."""
    if _is_union(annotation):
        members = [a for a in typing.get_args(annotation) if a is not type(None)]
        if len(members) < len(typing.get_args(annotation)):
            return Union[tuple(members)], True
    return annotation, False


def _is_union(annotation: Any) -> bool:
    # From Python 3.10 on, ``X | Y`` is a type of its own, which 3.9 does not have.
    return typing.get_origin(annotation) is Union or type(annotation).__name__ == "UnionType"


def _schema_of(annotation: Any) -> JsonObject:
    """Return the JSON Schema of a type.

    Raises:
        _NoSchema: there is none.
    """
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return {}
    if annotation in _SIMPLE:
        return {"type": _SIMPLE[annotation]}
    if origin is Literal:
        kinds = {type(a) for a in args}
        if len(kinds) == 1 and kinds <= _SIMPLE.keys():
            return {"type": _SIMPLE[kinds.pop()], "enum": list(args)}
    elif _is_union(annotation):
        return {"anyOf": [_schema_of(a) for a in args]}
    elif annotation is list or origin in (list, collections.abc.Sequence):
        return {"type": "array", "items": _schema_of(args[0])} if args else {"type": "array"}
    elif annotation is dict or origin in (dict, collections.abc.Mapping):
        if not args:
            return {"type": "object"}
        if args[0] is str:
            return {"type": "object", "additionalProperties": _schema_of(args[1])}
    raise _NoSchema(
        f"{annotation!r} can't be described to a model; use str, int, float, bool, list[...], dict[str, ...], "
        "Optional[...] or Literal[...]"
    )
