"""The forms in which models write tool calls as text, and a reader for each. Which text holds one is for
:mod:`pibot.llm_client.text_calls` to find.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Union

from pibot.contracts import bounded_int

MAX_CALLS = 64
"""Calls that are read from one text."""

MAX_PYTHON_CHARS = 10_000
"""The longest text that is parsed as calls of Python."""

Arguments = Union[dict[str, Any], str]
"""Decoded, or as the model wrote them where they can't be decoded here."""

DECODER = json.JSONDecoder(strict=False, parse_int=bounded_int)


@dataclass(frozen=True)
class WrittenCall:
    """A tool call as text.

    Args:
        name: the tool's name, as the model wrote it.
        arguments: decoded, or the text of arguments that can't be decoded.
    """

    name: str
    arguments: Arguments


Reader = Callable[[str], Iterator[WrittenCall]]

_SPACE = r"(?:[\w-]+:|｜DSML｜)?"
"""A name space before a tag's name, such as ``seed:`` and ``minimax:``."""

NAME = r"[\w.:/-]{1,100}"


def calls_in_text(body: str) -> Iterator[WrittenCall]:
    """Read JSON objects or lists of them, one after the other."""
    place = 0
    while (found := re.compile(r"[\s,;]*(?:```(?:json)?\s*)?(?=[\[{])").match(body, place)) is not None:
        try:
            value, place = DECODER.raw_decode(body, found.end())
        except (ValueError, RecursionError):
            return
        yield from calls_in_json(value)


def _parameters(body: str) -> dict[str, Any]:
    """Read ``<parameter=x>…</parameter>`` and ``<parameter name="x" …>…</parameter>``."""
    pattern = (
        rf"<{_SPACE}(?:parameter|param|arg)(?:\s*=\s*|\s+name\s*=\s*)[\"']?([^\s\"'>]+)[\"']?[^>]*>(.*?)"
        rf"(?:</{_SPACE}(?:parameter|param|arg)>|(?=<{_SPACE}parameter[\s=])|\Z)"
    )
    return {name: _value(text) for name, text in re.findall(pattern, body, re.DOTALL)}


def _value(text: str) -> Any:
    """Return the value of an argument that stands between tags: JSON if it is, and text otherwise."""
    text = text[1:] if text.startswith("\n") else text
    text = text[:-1] if text.endswith("\n") else text
    stripped = text.strip()
    if stripped[:1] in ("{", "[", '"') or re.fullmatch(r"-?\d+(\.\d+)?|true|false|null", stripped):
        try:
            return json.loads(stripped, parse_int=bounded_int)
        except (ValueError, RecursionError):
            return text
    return html.unescape(text) if "&" in text else text


def tag_body(body: str) -> Iterator[WrittenCall]:
    """Read what stands between ``<tool_call>`` tags: JSON, XML or GLM's names and values."""
    stripped = body.strip()
    if stripped.startswith(("{", "[", "```")):
        calls = list(calls_in_text(stripped))
        yield from calls or calls_in_json(python_literal(stripped))
        if not calls:
            yield from python_calls(stripped)
        return
    function = list(_functions(stripped))
    if function:
        yield from function
        return
    keys = re.findall(r"<arg_key>([^<>]{1,200})</arg_key>\s*<arg_value>(.*?)(?:</arg_value>|\Z)", stripped, re.DOTALL)
    named = re.match(rf"({NAME})\s*(?=<arg_key>|\Z)", stripped)
    if named:
        yield WrittenCall(named[1], {key.strip(): _value(value) for key, value in keys})
        return
    before_json = re.match(
        rf"(?:<name>)?({NAME})(?:</name>)?\s*(?:<arguments>)?\s*(\{{.*?\}})\s*(?:</arguments>)?\Z", stripped, re.DOTALL
    )
    if before_json:
        yield WrittenCall(before_json[1], _decoded(before_json[2]))
        return
    yield from python_calls(stripped)


def _functions(body: str) -> Iterator[WrittenCall]:
    """Read ``<function=name>…</function>`` and ``<invoke name="name">…</invoke>``."""
    pattern = (
        rf"<{_SPACE}(function|invoke|tool)(?:\s*=\s*|\s+name\s*=\s*)[\"']?([^\s\"'>{{]+)[\"']?\s*>?(.*?)"
        rf"(?:</{_SPACE}\1>|\Z)"
    )
    for _, name, inner in re.findall(pattern, body, re.DOTALL):
        stripped = inner.strip()
        if stripped.startswith("{"):
            yield WrittenCall(name, _decoded(stripped))
        else:
            yield WrittenCall(name, _parameters(inner))


def _kimi(body: str) -> Iterator[WrittenCall]:
    pattern = (
        r"<\|tool_call_begin\|>\s*([^<>{}]{1,200}?)\s*<\|tool_call_argument_begin\|>(.*?)"
        r"(?:<\|tool_call_end\|>|<\|tool_calls_section_end\|>|(?=<\|tool_call_begin\|>)|\Z)"
    )
    for name, arguments in re.findall(pattern, body, re.DOTALL):
        yield WrittenCall(name, _decoded(arguments))


_BEGIN, _SEP, _END = (rf"<[｜|]tool[▁_ ]{what}[｜|]>" for what in ("call[▁_ ]begin", "sep", "calls?[▁_ ]end"))
"""DeepSeek's tokens, which some servers write with plain signs."""


def _deepseek(body: str) -> Iterator[WrittenCall]:
    pattern = rf"{_BEGIN}\s*(?:function\s*)?(?:{_SEP})?\s*([\w.:/-]+)\s*(?:{_SEP}|\n)?(.*?)(?:{_END}|(?={_BEGIN})|\Z)"
    for name, arguments in re.findall(pattern, body, re.DOTALL):
        yield WrittenCall(name, _decoded(re.sub(r"\A\s*```(?:json)?|```\s*\Z", "", arguments)))


def mistral(body: str) -> Iterator[WrittenCall]:
    """Read what follows ``[TOOL_CALLS]``: a list, or ``name[ARGS]{…}`` and ``name{…}``."""
    if body.lstrip().startswith(("[", "{")):
        yield from calls_in_text(body)
        return
    for found in re.finditer(rf"(?:\[TOOL_CALLS\])?\s*({NAME})\s*(?:\[CALL_ID\]\w*)?\s*(?:\[ARGS\])?\s*(?=\{{)", body):
        yield WrittenCall(found[1], _decoded(body[found.end() :]))


def _harmony(body: str) -> Iterator[WrittenCall]:
    for name, arguments in re.findall(
        rf"to=({NAME})[^{{]{{0,100}}?<\|message\|>(.*?)(?:<\|call\|>|<\|end\|>|\Z)", body, re.DOTALL
    ):
        yield WrittenCall(name, _decoded(arguments))


def _gemma(body: str) -> Iterator[WrittenCall]:
    """Read Gemma's ``call:name{key:<|"|>text<|"|>}``."""
    for name, arguments in re.findall(rf"call:({NAME})\s*(\{{.*?\}})\s*(?:<tool_call\|>|\Z)", body, re.DOTALL):
        quoted = re.sub(r"<\|\"\|>(.*?)<\|\"\|>", lambda text: json.dumps(text[1]), arguments, flags=re.DOTALL)
        yield WrittenCall(name, _decoded(re.sub(r"([{,]\s*)([A-Za-z_]\w*)\s*:", r'\1"\2":', quoted)))


def react(body: str) -> Iterator[WrittenCall]:
    """Read ``Action: name`` and ``Action Input: {…}``."""
    found = re.match(
        rf"\s*(?:\*\*)?Action:?(?:\*\*)?:?\s*`?({NAME})`?(?:\(\))?\s*\n"
        r"\s*(?:\*\*)?Action[ _]Input:?(?:\*\*)?:?\s*(.*?)(?=\n\s*(?:\*\*)?Observation|\Z)",
        body,
        re.DOTALL | re.IGNORECASE,
    )
    if found:
        yield WrittenCall(found[1], _decoded(re.sub(r"\A```(?:json)?\s*|\s*```\s*\Z", "", found[2].strip())))


def python_calls(body: str) -> Iterator[WrittenCall]:
    """Read ``name(key="value")``, alone, in a list or within ``print(…)``."""
    if len(body) > MAX_PYTHON_CHARS or "(" not in body:
        return
    try:
        tree = ast.parse(body.strip())
        for statement in tree.body:
            expression = statement.value if isinstance(statement, (ast.Expr, ast.Assign)) else None
            parts = expression.elts if isinstance(expression, ast.List) else [expression]
            yield from [_python_call(part) for part in parts]
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return


def python_literal(text: str) -> Any:
    """Return the value of a text in Python's notation, which some models take for JSON; None for any other."""
    if len(text) > MAX_PYTHON_CHARS:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def end_of_json(text: str, start: int) -> int:
    """Return where the JSON values end that begin at ``start``; ``start`` where none does."""
    place = start
    while (found := re.compile(r"[\s,;]*(?=[\[{])").match(text, place)) is not None:
        try:
            _, place = DECODER.raw_decode(text, found.end())
        except (ValueError, RecursionError):
            break
    return place


def _python_call(node: ast.AST | None) -> WrittenCall:
    """Read one call of Python.

    Raises:
        ValueError: it is none, or an argument is no literal.
    """
    if not isinstance(node, ast.Call):
        raise ValueError("no call")
    name = ast.unparse(node.func)
    if name == "print" and len(node.args) == 1:
        return _python_call(node.args[0])
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise ValueError("arguments without names")
    return WrittenCall(name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords})


def _decoded(text: str) -> Arguments:
    """Return the JSON object with which a text begins; the text itself where it begins with none."""
    stripped = text.strip()
    try:
        value, _ = DECODER.raw_decode(stripped)
    except (ValueError, RecursionError):
        return stripped
    return value if isinstance(value, dict) else stripped


def calls_in_json(value: Any, *, bare: bool = False, depth: int = 8) -> Iterator[WrittenCall]:
    """Return the calls that a JSON value holds, in the forms that models use.

    Args:
        value: decoded.
        bare: whether no tags stand around it, so that a name alone is no call.
        depth: how many lists and wrappers may be around a call.
    """
    if not depth:
        return
    if isinstance(value, list):
        found = [list(calls_in_json(item, bare=bare, depth=depth - 1)) for item in value[:MAX_CALLS]]
        if found and all(found):
            yield from (call for calls in found for call in calls)
        return
    if not isinstance(value, dict) or len(value) > 8:
        return
    for wrapper in ("tool_calls", "tool_uses", "calls"):
        if isinstance(value.get(wrapper), list):
            yield from calls_in_json(value[wrapper], depth=depth - 1)
            return
    for wrapper in ("function", "function_call", "tool_call", "tool_use", "action"):
        if isinstance(value.get(wrapper), dict):
            yield from calls_in_json(value[wrapper], depth=depth - 1)
            return
    name = next((value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)), None)
    arguments = next((value[key] for key in _ARGUMENT_KEYS if isinstance(value.get(key), (dict, str))), None)
    if name is not None and arguments is not None and set(value) <= _KEYS:
        yield WrittenCall(name, arguments if isinstance(arguments, dict) else _decoded(arguments))
    elif name is not None and set(value) <= _KEYS and not any(value.get(key) for key in _ARGUMENT_KEYS):
        if bare and not value.keys() & _ARGUMENT_KEYS:
            return  # a name alone
        yield WrittenCall(name, {})


_NAME_KEYS = ("name", "tool_name", "function_name", "recipient_name", "tool", "function", "action", "api")
_ARGUMENT_KEYS = ("arguments", "parameters", "args", "input", "tool_input", "action_input", "params", "kwargs")
_KEYS = frozenset({*_NAME_KEYS, *_ARGUMENT_KEYS, "id", "type", "call_id", "index", "thought", "tool_call_id"})

TAGS: tuple[tuple[str, str, Reader], ...] = (
    (
        r"<\|tool_calls_section_begin\|>|<\|tool_call_begin\|>(?!\s*function\s*<)",
        r"<\|tool_calls_section_end\|>|<\|tool_call_end\|>(?!\s*<\|tool_call)",
        _kimi,
    ),
    (
        r"<[｜|]tool[▁_ ]calls?[▁_ ]begin[｜|]>",
        r"<[｜|]tool[▁_ ]calls[▁_ ]end[｜|]>|<[｜|]tool[▁_ ]call[▁_ ]end[｜|]>(?!\s*<[｜|]tool[▁_ ]call)",
        _deepseek,
    ),
    (r"\[TOOL_CALLS\]", r"\Z", mistral),
    (r"<\|python_tag\|>", r"<\|eom_id\|>|<\|eot_id\|>|\Z", tag_body),
    (r"<\|tool_call>", r"<tool_call\|>(?!\s*<\|tool_call>)", _gemma),
    (
        r"(?:<\|start\|>\s*)?(?:assistant\s*)?(?:<\|channel\|>\s*\w*)?[ ]?to=[\w.]{1,100}[^{<]{0,60}"
        r"(?:<\|channel\|>\s*\w*)?[ ]*(?:\w+[ ]*)?(?:<\|constrain\|>\s*\w+)?<\|message\|>",
        r"<\|call\|>|<\|end\|>|\Z",
        _harmony,
    ),
    (
        r"<\|(?:tool_call|tool_call_start|START_ACTION|action_start|plugin)\|>(?:\s*<\|plugin\|>)?",
        r"<\|(?:/tool_call|tool_call_end|END_ACTION|action_end)\|>|\Z",
        tag_body,
    ),
    (
        r"(?:<(?:[\w-]+:|｜DSML｜)?(?:function_calls|tool_calls)>\s*)?<(?:[\w-]+:|｜DSML｜)?invoke\s+name\s*=",
        r"</(?:[\w-]+:|｜DSML｜)?(?:function_calls|tool_calls|tool_call)>|</(?:[\w-]+:|｜DSML｜)?invoke>(?!\s*</?(?:[\w-]+:|｜DSML｜)?(?:invoke|function_calls|tool_calls|tool_call)\b)",
        _functions,
    ),
    (
        r"<((?:[\w-]+:|｜DSML｜)?(?:tool_calls?|function_calls?|functioncall|toolcall|tools?_use|tool_code|toolcall))(?:\s[^<>]{0,200})?>",
        r"</{0}>",
        tag_body,
    ),
    (r"<tools>(?=\s*[\[{])", r"</tools>", tag_body),
    (r"\[TOOL_(?:REQUEST|CALL)\](?!\s*\w+\s)", r"\[END_TOOL_REQUEST\]|\[/TOOL_CALL\]|\Z", tag_body),
    (r"<\|tools_prefix\|>", r"<\|tools_suffix\|>|\Z", tag_body),
    (r"<function\s*=\s*[\"']?[\w.:/-]+[\"']?\s*(?:>|(?=\{))|<function\s+name\s*=", r"</function>", _functions),
)
FORMS = tuple((re.compile(opener, re.IGNORECASE), closer, reader) for opener, closer, reader in TAGS)
