"""What a scripted model may answer; see :mod:`tests.support.scripted_llm`, which exports all of it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

MODEL = "scripted-model"

_AUTO: Any = object()
_serial = itertools.count(1)


class Delivery(Enum):
    """How a reply reaches the client."""

    WHOLE = "whole"
    CHUNKED = "chunked"
    RESET = "reset"  # the connection is reset (RST) before a byte of the answer
    TRUNCATED = "truncated"  # the headers and half of the body, then the connection is closed
    STALLED = "stalled"  # the headers and half of the body, then nothing until the client goes away
    HANG = "hang"  # nothing at all until the client goes away


@dataclass(frozen=True)
class Reply:
    """One answer of the server. Made by the functions below.

    Args:
        status: the HTTP status.
        body: the bytes of the body.
        headers: more headers; ``Content-Type`` is ``application/json`` unless it is here.
        delivery: how it reaches the client.
        held_until: it is sent when this event is set.
        hang_up: the connection is closed after it, without a ``Connection: close`` that would announce that.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = Delivery.WHOLE
    held_until: threading.Event | None = None
    hang_up: bool = False


def raw(
    body: bytes | str,
    *,
    status: int = 200,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """These very bytes."""
    data = body.encode() if isinstance(body, str) else body
    return Reply(status, data, {"Content-Type": content_type, **(headers or {})})


def reply_json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """``value`` as JSON, whatever it is."""
    return raw(json.dumps(value), status=status, headers=headers)


def completion(
    message: Mapping[str, Any],
    *more_messages: Mapping[str, Any],
    finish_reason: Any = "stop",
    usage: Mapping[str, Any] | None = _AUTO,
    model: str = MODEL,
) -> Reply:
    """A whole ``chat.completion`` object.

    Args:
        message: the first choice's message; ``role`` is added.
        more_messages: those of further choices.
        finish_reason: every choice's.
        usage: 10 + 5 tokens by default; None leaves the field out.
        model: the name the server answers with.
    """
    body: dict[str, Any] = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {"index": index, "message": {"role": "assistant", **m}, "logprobs": None, "finish_reason": finish_reason}
            for index, m in enumerate((message, *more_messages))
        ],
    }
    if usage is _AUTO:
        usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    if usage is not None:
        body["usage"] = dict(usage)
    return reply_json(body)


def text(content: Any, **options: Any) -> Reply:
    """The model says ``content`` (text, or anything a bad server may put there). Options as for :func:`completion`."""
    return completion({"content": content}, **options)


def call(
    name: Any, arguments: Mapping[str, Any] | str | None = None, *, call_id: Any = _AUTO, as_object: bool = False
) -> dict[str, Any]:
    """One tool call for :func:`tool_calls`.

    Args:
        name: the tool's name.
        arguments: encoded as JSON text, as the protocol wants it; a ``str`` is sent as it is, so it may be broken.
        call_id: made from the name by default; None leaves the field out.
        as_object: send the arguments as an object, against the protocol, as some servers do.
    """
    sent: Any = arguments if isinstance(arguments, str) or as_object else json.dumps(dict(arguments or {}))
    body: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": sent}}
    if call_id is _AUTO:
        call_id = f"call_{name}_{next(_serial)}"
    if call_id is not None:
        body["id"] = call_id
    return body


def tool_calls(*calls: Mapping[str, Any], content: Any = None, **options: Any) -> Reply:
    """The model asks for tools. Options as for :func:`completion`."""
    options.setdefault("finish_reason", "tool_calls")
    return completion({"content": content, "tool_calls": list(calls)}, **options)


def stream(*parts: str, usage: Mapping[str, Any] | None = None, model: str = MODEL) -> Reply:
    """A streamed answer: server-sent events, one chunk a part, then ``[DONE]``. For requests with ``stream: true``."""

    def chunk(choices: list[dict[str, Any]], **more: Any) -> str:
        head = {"id": "chatcmpl-scripted", "object": "chat.completion.chunk", "created": 0, "model": model}
        return f"data: {json.dumps({**head, 'choices': choices, **more})}\n\n"

    events = [chunk([{"index": 0, "delta": {"content": part}, "finish_reason": None}]) for part in parts]
    events.append(chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
    if usage is not None:
        events.append(chunk([], usage=dict(usage)))
    events.append("data: [DONE]\n\n")
    whole = raw("".join(events), content_type="text/event-stream")
    return dataclasses.replace(whole, delivery=Delivery.CHUNKED)


def error(
    status: int,
    message: str = "scripted error",
    *,
    code: Any = None,
    type: str = "scripted",
    retry_after: float | str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error in the protocol's form. ``retry_after``: seconds, or an HTTP-date as text."""
    more = dict(headers or {})
    if retry_after is not None:
        more["Retry-After"] = str(retry_after)
    body = {"error": {"message": message, "type": type, "param": None, "code": code}}
    return reply_json(body, status=status, headers=more)


def html(page: str = "<html><body><h1>502 Bad Gateway</h1></body></html>", *, status: int = 200) -> Reply:
    """A page where JSON should be, as proxies and log-in portals send."""
    return raw(page, status=status, content_type="text/html; charset=utf-8")


def redirect(location: str, *, status: int = 307) -> Reply:
    """Somewhere else."""
    return raw(b"", status=status, headers={"Location": location})


def reset() -> Reply:
    """The connection is reset before a byte of the answer."""
    return Reply(delivery=Delivery.RESET)


def truncated(reply: Reply | None = None) -> Reply:
    """The headers and half of the body of ``reply``, then the connection is closed."""
    return dataclasses.replace(reply or text("this will be cut"), delivery=Delivery.TRUNCATED)


def stalled(reply: Reply | None = None) -> Reply:
    """The headers and half of the body of ``reply``, then nothing until the client goes away."""
    return dataclasses.replace(reply or text("this will stall"), delivery=Delivery.STALLED)


def hang() -> Reply:
    """Nothing at all until the client goes away."""
    return Reply(delivery=Delivery.HANG)


def held(reply: Reply, event: threading.Event) -> Reply:
    """``reply``, once ``event`` is set (stopping the server sets it, too)."""
    return dataclasses.replace(reply, held_until=event)
