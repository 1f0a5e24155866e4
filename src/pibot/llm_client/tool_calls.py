"""Read the tool calls of an answer, whatever form their arguments, names and ids have."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Collection
from typing import Any, Callable

from pibot.contracts import JsonObject, ToolCall, bounded_int
from pibot.errors import LLMProtocolError
from pibot.llm_client.extras import call_extra, encodable

MAX_TOOL_NAME_CHARS = 64
"""The protocol's limit for the name of a function (OpenAI API reference, chat completions, ``tools``)."""

MAX_WRITTEN_NAME_CHARS = 200

MAX_CALLS = 128
"""Calls that are read from one answer; the agent runs far fewer."""

_EXCERPT_CHARS = 200

NewId = Callable[[], str]


def new_call_id() -> str:
    """Return an id that every provider takes: nine letters and digits, as Mistral wants it."""
    return f"call{uuid.uuid4().hex[:5]}"


def read_tool_calls(calls: Any, new_id: NewId, *, cut: bool = False) -> tuple[ToolCall, ...]:
    """Read the ``tool_calls`` of a message.

    Args:
        calls: the list, decoded.
        new_id: makes an id for a call without one of its own.
        cut: whether the answer ended at its length limit.

    Raises:
        LLMProtocolError: it is no list.
    """
    if isinstance(calls, dict):  # one call without its list, or calls by their numbers
        calls = [calls] if calls.keys() & {"function", "name"} else list(calls.values())
    if not calls or calls == "[]":
        return ()
    if not isinstance(calls, list):
        raise LLMProtocolError("a completion whose tool_calls is no list")
    decoded: list[ToolCall] = []
    taken: set[str] = set()
    found = [call for call in calls if isinstance(call, dict)]
    for call in ([call for call in found if not is_hollow(call)] or found)[:MAX_CALLS]:
        decoded.append(read_tool_call(call, taken, new_id, cut=cut))
        taken.add(decoded[-1].call_id)
    return tuple(decoded)


def is_hollow(call: JsonObject) -> bool:
    """Return whether a call has neither name nor arguments: some servers send one such beside every answer."""
    function = _function_of(call)
    return not function.get("name") and function.get("arguments") in (None, "", "{}", {})


def _function_of(call: JsonObject) -> JsonObject:
    """Return what a call calls, which a few servers write into the call itself."""
    function = call.get("function")
    if not isinstance(function, dict):
        function = {name: call[name] for name in ("name", "arguments", "parameters") if name in call}
    if "arguments" not in function and isinstance(function.get("parameters"), dict):
        return {**function, "arguments": function["parameters"]}
    return function


def read_tool_call(call: JsonObject, taken: Collection[str], new_id: NewId, *, cut: bool = False) -> ToolCall:
    """Read one tool call. Whatever is wrong with it becomes its ``problem``."""
    function = _function_of(call)
    call_id = call.get("id")
    call_id = encodable(str(call_id)) if isinstance(call_id, (str, int)) else ""
    if not call_id or call_id in taken:  # some servers number the calls of each answer from 0, or give all the same id
        call_id = unused_id(taken, new_id)
    written = str(function.get("name") or "").strip()
    # The next request repeats the conversation, and would be refused for a name outside the protocol's alphabet.
    name = re.sub(r"[^A-Za-z0-9_-]", "_", written)[:MAX_TOOL_NAME_CHARS]
    arguments, raw, problem = read_arguments(function.get("arguments"))
    if problem and cut:
        problem = f"The answer ended at its length limit before the call was whole: make it shorter. {problem}"
    if not name:
        name, problem = "unnamed", problem or "The tool call has no name. Call one of the tools by its name."
    differing = encodable(written[:MAX_WRITTEN_NAME_CHARS]) if written != name else ""
    return ToolCall(call_id, name, None if problem else arguments, raw, problem, call_extra(call), differing)


def unused_id(taken: Collection[str], new_id: NewId) -> str:
    """Return a new id that is not among ``taken``."""
    while (made := new_id()) in taken:
        pass
    return made


def read_arguments(written: Any) -> tuple[JsonObject | None, str, str | None]:
    """Return the decoded arguments, the text to send back, and the problem for the model.

    The text to send back is always a JSON object: servers that render the conversation with a template decode it, and
    refuse the whole conversation otherwise. The problem then quotes what the model wrote.
    """
    if isinstance(written, dict):
        written = dumped(written)
    if written is None or (isinstance(written, str) and not written.strip()):
        return {}, "{}", None  # many models write nothing for a tool without arguments
    if not isinstance(written, str):
        return None, "{}", f"The arguments must be a JSON object, not {_excerpt(dumped(written))}."
    try:
        arguments = _decoded(written)
        if isinstance(arguments, str) and arguments.lstrip().startswith("{"):  # encoded twice
            written, arguments = arguments, _decoded(arguments)
    except RecursionError:
        return None, "{}", f"The arguments are nested too deeply. You wrote: {_excerpt(written)}"
    except ValueError as exc:
        return None, "{}", f"The arguments are not valid JSON: {exc}. You wrote: {_excerpt(written)}"
    if not isinstance(arguments, dict):
        return None, "{}", f"The arguments must be a JSON object, not {_excerpt(written)}."
    return arguments, written, None


def _decoded(written: str) -> Any:
    return encodable(json.loads(written, parse_int=bounded_int, parse_constant=_no_constant))


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT_CHARS else f"{text[:_EXCERPT_CHARS]}… ({len(text)} characters)"


def dumped(value: Any) -> str:
    """Return ``value`` as JSON text; empty if it is nested too deeply."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        return ""
