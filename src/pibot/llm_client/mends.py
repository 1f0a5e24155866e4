"""Find in a provider's refusal what it wants otherwise.

Providers name the cause in their own words, so this is a table of words. A word alone mends nothing: what it names must
be in the request, and the mended request must differ from the one that was refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from pibot.contracts import JsonObject
from pibot.errors import LLMProtocolError
from pibot.llm_client import shaping
from pibot.llm_client.backend import HttpAnswer
from pibot.llm_client.overflow import read_overflow
from pibot.llm_client.profiles import Content, IdForm, ProviderProfile, Schema
from pibot.llm_client.refusal import error_of, is_refusal

MAX_TEXT = 8000
"""Characters of a refusal that are read."""

_ESSENTIAL = frozenset({"model", "messages", "tools", "stream"})

_REFUSES = re.compile(
    r"unsupported|not\W+(?:be\W+)?(?:supported?|permitted|allowed|accepted|enabled|available|exist|valid|recogni)"
    r"|un(?:known|recogni[sz]ed|expected)|extra[_ ](?:inputs?|fields?|forbidden|param)|invalid|additional propert"
    r"|n[o']t support|not a valid|does ?n.t (?:support|accept|allow)|forbid|deprecated|no endpoints|cannot|can't|only"
    r"|must|should|instead|cannot find field|no such|illegal|ignored|remove|too (?:large|many|long|big|high)|exceed"
)


@dataclass(frozen=True)
class Mend:
    """What to do otherwise.

    Args:
        profile: the profile with which to ask again.
        change: what is different, for the log.
    """

    profile: ProviderProfile
    change: str


@dataclass(frozen=True)
class Refused:
    """A refusal, and the request that it is about.

    Args:
        text: the refusal's words, in lower case.
        places: the paths to the fields that it names, where it names them for programs.
        sent: the request as it was sent.
        profile: the profile with which it was written.
    """

    text: str
    places: tuple[tuple[str, ...], ...]
    sent: JsonObject
    profile: ProviderProfile

    def says(self, pattern: str) -> bool:
        return re.search(pattern, self.text) is not None

    @property
    def messages(self) -> list[JsonObject]:
        messages = self.sent.get("messages")
        return [message for message in messages if isinstance(message, dict)] if isinstance(messages, list) else []


def diagnose(profile: ProviderProfile, sent: JsonObject, answer: HttpAnswer) -> Iterator[Mend]:
    """Return what may be wanted otherwise, the likeliest first.

    Args:
        profile: the profile with which the request was written.
        sent: the request as it was refused.
        answer: the refusal.
    """
    if not is_refusal(answer):
        return
    refused = _read(answer, sent, profile)
    if answer.status in (404, 405):
        yield from _path(refused)
    if answer.status == 500 and not refused.says(r"jinja|template|rol(?:e|es)\b|type must be|json schema|alternate"):
        return
    if answer.status in (404, 405) and not refused.says(r"no endpoints|support"):
        return
    too_large = r"max_(?:completion_)?tokens\W.{0,20}too (?:large|high|big)"
    error = error_of(answer)
    too_long = error is not None and read_overflow(answer.status, error.message, error.code, error.kind) is not None
    if too_long and not refused.says(too_large):  # the caller has to shorten it
        return
    for rule in _RULES:
        yield from rule(refused)


def _read(answer: HttpAnswer, sent: JsonObject, profile: ProviderProfile) -> Refused:
    try:
        data = answer.data
    except LLMProtocolError:
        data = None
    text = answer.body.decode("utf-8", "replace") if data is None else "\n".join(_words(data, 0))
    return Refused(text[:MAX_TEXT].lower(), tuple(_places(data, 0)), sent, profile)


def _words(data: Any, depth: int) -> Iterator[str]:
    """Return the texts of an error, without the names of its kind: those are the same for every cause."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict) and depth < 8:
        for name, value in data.items():
            if name not in ("type", "object", "status", "input", "url") or not isinstance(value, str):
                yield from _words(value, depth + 1)
    elif isinstance(data, list) and depth < 8:
        for item in data[:50]:
            yield from _words(item, depth + 1)


def _places(data: Any, depth: int) -> Iterator[tuple[str, ...]]:
    """Return the fields that an error names: ``param`` of OpenAI, ``loc`` of FastAPI."""
    if depth > 8:
        return
    if isinstance(data, list):
        for item in data[:50]:
            yield from _places(item, depth + 1)
    if isinstance(data, dict):
        param, loc = data.get("param"), data.get("loc")
        if isinstance(param, str) and param:
            yield tuple(filter(None, re.split(r"[.\[\]'\"]+", param)))
        if isinstance(loc, list):
            place = tuple(str(step) for step in loc)
            yield place[1:] if place[:1] == ("body",) else place
        for value in data.values():
            yield from _places(value, depth + 1)


def _path(refused: Refused) -> Iterator[Mend]:
    """Add ``/v1`` to an address without a path."""
    if refused.profile.path is None and not refused.profile.prefix:
        yield Mend(replace(refused.profile, prefix="/v1"), "ask below /v1")


def _stream(refused: Refused) -> Iterator[Mend]:
    wants = (
        r"non-?\s?stream|only supports? (?:the )?stream|stream(?:ing)? (?:mode )?only|must be streamed"
        r"|\bstream\b\W{0,12}(?:must|should|has to|needs to) be (?:set to )?\W?true|streaming is (?:required|strongly)"
    )
    if refused.sent.get("stream") is not True and refused.says(wants):
        yield Mend(replace(refused.profile, stream_only=True), "ask for a stream")


def _max_tokens(refused: Refused) -> Iterator[Mend]:
    for name, other in (("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")):
        if name in refused.sent and refused.says(rf"\b{name}\b") and refused.says(_REFUSES.pattern):
            if refused.says(rf"\b{other}\b") and not refused.says(r"too (?:large|high|big)"):
                yield Mend(replace(refused.profile, max_tokens_field=other), f"send {other} in place of {name}")
            if name == "max_completion_tokens" and not refused.says(r"too (?:large|high|big)"):
                yield Mend(replace(refused.profile, max_tokens_field=other), f"send {other} in place of {name}")
            yield Mend(replace(refused.profile, max_tokens_field=None), f"leave out {name}")


def _fields(refused: Refused) -> Iterator[Mend]:
    """Leave out a field of the request that the provider refuses."""
    named = [name for name in refused.sent if name not in _ESSENTIAL and _names_field(refused, name)]
    named = [name for name in named if name not in shaping.MAX_TOKENS_FIELDS]
    if named:
        left_out = refused.profile.left_out | set(named)
        yield Mend(replace(refused.profile, left_out=left_out), f"leave out {', '.join(sorted(named))}")


def _names_field(refused: Refused, name: str) -> bool:
    if any(place[:1] == (name,) for place in refused.places):
        return True
    return refused.says(rf"(?<![\w.]){re.escape(name.lower())}(?![\w(])") and refused.says(_REFUSES.pattern)


def _reasoning(refused: Refused) -> Iterator[Mend]:
    if not refused.says("reasoning_content|reasoning content"):
        return
    calling = [message for message in refused.messages if shaping.calls_of(message)]
    lacking = [message for message in calling if not message.get("reasoning_content")]
    profile = refused.profile
    required = replace(
        profile,
        reasoning_required=True,
        reasoning_back=True,
        message_fields=None if profile.message_fields is None else profile.message_fields | {"reasoning_content"},
    )
    if lacking and not refused.says(r"unsupported|unexpected|extra|unknown|not (?:permitted|allowed|supported)"):
        yield Mend(required, "send reasoning_content with every tool call")
    if len(lacking) < len(calling) or any("reasoning_content" in message for message in refused.messages):
        yield Mend(_without(refused, "reasoning_content"), "leave out reasoning_content")


def _signature(refused: Refused) -> Iterator[Mend]:
    if refused.says("thought.?signature") and refused.says("missing|required|must|lack|without"):
        profile = refused.profile
        fields = None if profile.message_fields is None else profile.message_fields | {"extra_content"}
        yield Mend(replace(profile, signature_required=True, message_fields=fields), "send a thought signature")


def _without(refused: Refused, *names: str) -> ProviderProfile:
    kept = refused.profile.message_fields
    if kept is None:
        kept = shaping.further_fields(refused.messages) | set(shaping.REASONING) | {"extra_content"}
    return replace(refused.profile, message_fields=kept - set(names), reasoning_required=False)


def _message_fields(refused: Refused) -> Iterator[Mend]:
    """Leave out a field of a message that this provider refuses, whichever provider it came from."""
    present = shaping.further_fields(refused.messages)
    named = [name for name in present if _names_inner(refused, name)]
    if named:
        yield Mend(_without(refused, *named), f"leave out {', '.join(sorted(named))} of messages")


def _names_inner(refused: Refused, name: str) -> bool:
    if any(place[:1] == ("messages",) and name in place for place in refused.places):
        return True
    return refused.says(rf"(?<!\w){re.escape(name.lower())}(?!\w)") and refused.says(_REFUSES.pattern)


def _ids(refused: Refused) -> Iterator[Mend]:
    at_id = refused.says(
        r"(?:tool[_ ]?call|call)s?\W.{0,20}\bids?\b|tool_call_id|toolcallid|tool_use\.id|tool_calls\S*\.id"
    )
    wrong = r"length|must be|pattern|a-z|maximum|max |invalid|too long|match|alphanumeric|characters|format|at most"
    if at_id and refused.says(wrong) and refused.profile.id_form is IdForm.ANY:
        yield Mend(replace(refused.profile, id_form=IdForm.NINE), "send ids of nine letters and digits")


def _system(refused: Refused) -> Iterator[Mend]:
    if not refused.says(r"\b(?:system|developer)\b"):
        return
    if refused.says(
        r"system.{0,30}(?:must|should|has to|only|can only).{0,20}(?:begin|first|start)|first.{0,30}system"
    ):
        yield Mend(replace(refused.profile, late_system=False), "send one system message, first")
    if refused.says(r"unexpected role.{0,4}system.{0,4} after"):
        yield Mend(replace(refused.profile, late_system=False), "send one system message, first")
    about = r"rol|message|prompt|instruction"
    if refused.says(about) and refused.says(_REFUSES.pattern):
        yield Mend(replace(refused.profile, system_role=False), "send no system message")


def _roles(refused: Refused) -> Iterator[Mend]:
    """Put the messages into another order."""
    profile = refused.profile
    if refused.says(r"unexpected role.{0,4}user.{0,4} after role.{0,4}tool|user.{0,40}(?:after|follow).{0,20}tool"):
        yield Mend(replace(profile, user_after_tool=False), "answer tools before the user speaks")
    last = (
        r"(?:last|final).{0,40}(?:message|role|turn).{0,60}user|no user (?:query|message)|end with (?:a |the )?user"
        r"|prefill|user.{0,30}(?:must|should|has to) be.{0,10}(?:the )?last"
    )
    if refused.says(last):
        yield Mend(replace(profile, user_last=True), "end with a user message")
    if refused.says(r"alternat|consecutive|same role|roles? (?:order|sequence)|order of (?:the )?(?:roles|messages)"):
        yield Mend(replace(profile, alternate=True), "join messages of the same role")
        yield Mend(replace(profile, alternate=True, tool_role=False), "write tool calls and results as text")
        return
    no_tools = r"\btools?\b=?.{0,30}(?:must|required|requires|missing|param|provided)"
    if not refused.sent.get("tools") and refused.says(no_tools):
        yield Mend(replace(profile, calls_need_tools=True), "write past tool calls as text where there are no tools")
    calls = r"single tool.?calls?|one tool.?call|(?:multiple|parallel|several) tool.?calls|more than one tool"
    if refused.says(calls):
        yield Mend(replace(profile, parallel_calls=False), "send one tool call in a message")
    if refused.says(r"rol.{0,20}\btool\b|\btool\b.{0,10}rol") and refused.says(_REFUSES.pattern):
        yield Mend(replace(profile, tool_role=False), "write tool calls and results as text")


_SCHEMA_WORDS = (
    r"additional_?properties|\$ref|\$defs|\$schema|\bdefinitions\b|json.?schema|invalid schema|function_declarations"
    r"|patternproperties|exclusive(?:minimum|maximum)|\boneof\b|\ballof\b|\bconst\b|proto field is not repeating"
    r"|tools\W.{0,40}(?:parameters|schema)|parameters\W.{0,60}(?:schema|propert|format|type)|\bformat\b.{0,80}(?:enum|string|date)"
    r"|type must be string, but is array|unrecognized schema|schema.{0,40}(?:not supported|invalid|unsupported)"
)


def _schema(refused: Refused) -> Iterator[Mend]:
    if not refused.sent.get("tools") or not (
        refused.says(_SCHEMA_WORDS) or any(place[:1] == ("tools",) for place in refused.places)
    ):
        return
    if refused.profile.schema is Schema.FULL:
        yield Mend(replace(refused.profile, schema=Schema.SINGLE_TYPES), "send schemas with single types")
    yield Mend(replace(refused.profile, schema=Schema.SUBSET), "send schemas in OpenAPI's subset")


def _content(refused: Refused) -> Iterator[Mend]:
    """Write an empty content beside tool calls in another way."""
    inner = any(place[:1] == ("messages",) and "content" in place for place in refused.places)
    null_text = refused.says(r"type must be (?:string|array), but is null|nonetype|none is not|null")
    about = r"content|text|message.{0,60}empty|empty.{0,60}message|assistant message"
    wrong = (
        r"null|none|empty|string|blank|whitespace|required|missing|at least|min_?length|too short|either|neither|type"
    )
    if not (inner or null_text or (refused.says(about) and refused.says(wrong))):
        return
    now = refused.profile.beside_calls
    if not any(shaping.calls_of(m) and m.get("content") in (None, "", shaping.BESIDE_CALLS) for m in refused.messages):
        return
    empty = refused.says(r"empty|blank|whitespace|at least|min_?length|too short|non-?empty|length")
    text_first = (Content.EMPTY, Content.NULL, Content.TEXT, Content.OMITTED)
    none_first = (Content.NULL, Content.OMITTED, Content.TEXT, Content.EMPTY)
    tried = refused.profile.contents_refused | {now}
    for other in none_first if empty and now is not Content.NULL else text_first:
        if other not in tried:
            profile = replace(refused.profile, beside_calls=other, contents_refused=tried)
            yield Mend(profile, f"write an empty content beside tool calls as {other.value}")


_Rule = Callable[[Refused], Iterator[Mend]]

_RULES: tuple[_Rule, ...] = (
    _stream,
    _max_tokens,
    _reasoning,
    _signature,
    _fields,
    _message_fields,
    _ids,
    _roles,
    _system,
    _content,
    _schema,
)
