"""Write a request as its provider wants it. Nothing here changes what was handed in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from pibot.contracts import JsonObject
from pibot.llm_client import schemas
from pibot.llm_client.profiles import Content, IdForm, ProviderProfile

MAX_TOKENS_FIELDS = ("max_tokens", "max_completion_tokens")

MESSAGE_FIELDS = frozenset(
    {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio", "prefix"}
)
CALL_FIELDS = frozenset({"id", "type", "function", "index"})
"""The protocol's own fields of messages and of tool calls."""

REASONING = ("reasoning_content", "reasoning", "reasoning_details")
"""Fields in which providers send what the model thought."""

NO_REASONING = "(not recorded)"
"""In place of the thoughts of another model, for a provider that refuses a message without any."""

# ai.google.dev, *Thought signatures*: for calls that another model made.
NO_SIGNATURE: JsonObject = {"google": {"thought_signature": "skip_thought_signature_validator"}}

EMPTY_ANSWER = "(empty answer)"
BESIDE_CALLS = "(tool call)"
NO_OUTPUT = "(no output)"
UNDERSTOOD = "Understood."
GO_ON = "Go on."

_NINE = re.compile(r"[A-Za-z0-9]{9}\Z")
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def shape(profile: ProviderProfile, body: JsonObject, extra: Mapping[str, Any]) -> JsonObject:
    """Return the request for a provider.

    Args:
        profile: how the provider wants it.
        body: the request in the protocol's form.
        extra: the owner's further fields.
    """
    shaped = {**body, **extra}
    for name in MAX_TOKENS_FIELDS:
        if name in shaped and name != profile.max_tokens_field:
            limit = shaped.pop(name)
            if profile.max_tokens_field is not None:
                shaped.setdefault(profile.max_tokens_field, limit)
    if isinstance(body.get("tools"), list):
        shaped["tools"] = [schemas.tool(item, profile.schema) for item in body["tools"]]
    if profile.stream_only and body.get("stream") is not True:
        shaped.update({"stream": True, "stream_options": {"include_usage": True}})
    for name in profile.left_out:
        shaped.pop(name, None)
    if isinstance(body.get("messages"), list) and all(isinstance(message, dict) for message in body["messages"]):
        if profile.calls_need_tools and not body.get("tools"):
            profile = replace(profile, tool_role=False)
        shaped["messages"] = _messages(profile, body["messages"])
    return shaped


def nine(call_id: str) -> str:
    """Return nine letters and digits for the id of a tool call: itself if it has that form, else always the same."""
    if _NINE.match(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "replace")).digest()[:8], "big")
    letters = []
    for _ in range(9):
        number, rest = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[rest])
    return "".join(letters)


def further_fields(messages: Iterable[Any]) -> frozenset[str]:
    """Return the names of the fields of messages and of tool calls that are not the protocol's."""
    found: set[str] = set()
    for message in messages:
        if isinstance(message, dict) and message.get("role") == "assistant":
            found.update(message.keys() - MESSAGE_FIELDS)
            for call in calls_of(message):
                found.update(call.keys() - CALL_FIELDS)
    return frozenset(found)


def calls_of(message: JsonObject) -> list[JsonObject]:
    """Return the tool calls of a message."""
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _messages(profile: ProviderProfile, messages: list[JsonObject]) -> list[JsonObject]:
    shaped = [_message(profile, message) for message in messages]
    if not profile.system_role:
        shaped = _without_system(shaped)
    elif not profile.late_system:
        shaped = [{**m, "role": "user"} if at and m.get("role") == "system" else m for at, m in enumerate(shaped)]
    if not profile.tool_role:
        shaped = [_as_text(message) for message in shaped]
    elif not profile.parallel_calls:
        shaped = _one_call_each(shaped)
    if profile.alternate or not profile.tool_role:
        shaped = _joined(shaped)
    if not profile.user_after_tool:
        shaped = _answered_tools(shaped)
    if profile.user_last and (not shaped or shaped[-1].get("role") != "user"):
        shaped.append({"role": "user", "content": GO_ON})
    return shaped


def _message(profile: ProviderProfile, message: JsonObject) -> JsonObject:
    """Return one message with the fields, ids and content that the provider takes."""
    role = message.get("role")
    shaped = dict(message)
    if role == "tool":
        if message.get("content") in ("", None):
            shaped["content"] = NO_OUTPUT
        if profile.id_form is IdForm.NINE and isinstance(message.get("tool_call_id"), str):
            shaped["tool_call_id"] = nine(message["tool_call_id"])
        return shaped
    if role != "assistant":
        return shaped
    for name in message.keys() - MESSAGE_FIELDS:
        if not _goes_back(profile, name):
            del shaped[name]
    calls = calls_of(message)
    if "tool_calls" in shaped and not calls:
        del shaped["tool_calls"]
    if calls:
        shaped["tool_calls"] = _calls(profile, calls)
        if profile.reasoning_required and not shaped.get("reasoning_content"):
            shaped["reasoning_content"] = NO_REASONING
    return _with_content(profile, shaped)


def _goes_back(profile: ProviderProfile, name: str) -> bool:
    if name in REASONING and not profile.reasoning_back:
        return False
    return profile.message_fields is None or name in profile.message_fields


def _calls(profile: ProviderProfile, calls: list[JsonObject]) -> list[JsonObject]:
    shaped = []
    for number, call in enumerate(calls):
        kept = {name: value for name, value in call.items() if name in CALL_FIELDS or _goes_back(profile, name)}
        if profile.message_fields is not None:
            kept.pop("index", None)
        if profile.id_form is IdForm.NINE and isinstance(kept.get("id"), str):
            kept["id"] = nine(kept["id"])
        # Of calls that a model makes at once, Gemini signs the first alone.
        if profile.signature_required and number == 0 and not kept.get("extra_content"):
            kept["extra_content"] = NO_SIGNATURE
        shaped.append(kept)
    return shaped


def _with_content(profile: ProviderProfile, message: JsonObject) -> JsonObject:
    """Return an assistant's message with its content in a form that the provider takes."""
    content = message.get("content")
    if isinstance(content, list) and profile.message_fields is not None and profile.name != "mistral":
        content = message["content"] = _text(content)  # parts such as another model's thoughts
    if content:
        return message
    if not message.get("tool_calls"):
        return {**message, "content": EMPTY_ANSWER}  # neither text nor calls: most providers refuse that
    rest = {name: value for name, value in message.items() if name != "content"}
    if profile.beside_calls is Content.OMITTED:
        return rest
    written = {Content.EMPTY: "", Content.NULL: None, Content.TEXT: BESIDE_CALLS}[profile.beside_calls]
    return {"role": rest.pop("role", "assistant"), "content": written, **rest}


def _text(content: Any) -> str:
    """Return the text of a content: text, or a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = (part.get("text") if isinstance(part, dict) else part for part in parts)
    return "".join(part for part in texts if isinstance(part, str))


def _with_text(text: str, message: JsonObject) -> JsonObject:
    """Return a message with a text before its content."""
    content = message.get("content")
    if isinstance(content, list):
        return {**message, "content": [{"type": "text", "text": text}, *content]}
    return {**message, "content": f"{text}\n\n{content}" if content else text}


def _without_system(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the messages with the text of the system's messages at the head of the first user message."""
    system = [message for message in messages if message.get("role") in ("system", "developer")]
    rest = [message for message in messages if message.get("role") not in ("system", "developer")]
    text = "\n\n".join(filter(None, (_text(message.get("content")) for message in system)))
    if not text:
        return rest
    for at, message in enumerate(rest):
        if message.get("role") == "user":
            return [*rest[:at], _with_text(text, message), *rest[at + 1 :]]
    return [{"role": "user", "content": text}, *rest]


def _one_call_each(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the messages with each tool call in a message of its own, its result behind it."""
    shaped: list[JsonObject] = []
    results: dict[Any, JsonObject] = {}
    for at, message in enumerate(messages):
        calls = calls_of(message)
        if message.get("role") == "tool":
            if results.pop(message.get("tool_call_id"), None) is None:
                shaped.append(message)
            continue
        if len(calls) < 2:
            shaped.append(message)
            continue
        results = {}
        for follower in messages[at + 1 :]:
            if follower.get("role") != "tool":
                break
            results[follower.get("tool_call_id")] = follower
        for call in calls:
            shaped.append({**message, "tool_calls": [call]})
            shaped += [results[call["id"]]] if call.get("id") in results else []
    return shaped


def _as_text(message: JsonObject) -> JsonObject:
    """Return a message that needs no tool role."""
    if message.get("role") == "tool":
        return {"role": "user", "content": f"The tool's result:\n{_text(message.get('content'))}"}
    calls = calls_of(message)
    if not calls:
        return message
    written = []
    for call in calls:
        function = call.get("function") if isinstance(call.get("function"), dict) else {}
        written.append(f"I call {function.get('name')} with {function.get('arguments')}")  # type: ignore[union-attr]
    text = "\n".join(filter(None, (_text(message.get("content")), *written)))
    rest = {name: value for name, value in message.items() if name not in ("tool_calls", "content")}
    return {**rest, "content": text}


def _joined(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the messages with neighbours of the same role joined."""
    shaped: list[JsonObject] = []
    for message in messages:
        before = shaped[-1] if shaped else {}
        same = message.get("role") in ("user", "assistant") and before.get("role") == message["role"]
        if same and not calls_of(before) and not (message["role"] == "assistant" and calls_of(message)):
            shaped[-1] = _with_text(_text(before.get("content")), message)
        else:
            shaped.append(message)
    return shaped


def _answered_tools(messages: list[JsonObject]) -> list[JsonObject]:
    """Return the messages with an assistant's message between a tool's result and the user."""
    shaped: list[JsonObject] = []
    for message in messages:
        if message.get("role") == "user" and shaped and shaped[-1].get("role") == "tool":
            shaped.append({"role": "assistant", "content": UNDERSTOOD})
        shaped.append(message)
    return shaped
