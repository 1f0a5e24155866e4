"""The replies of the scripted model. Import them from :mod:`tests.support.scripted_llm`."""

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
    RESET = "reset"  # a reset (RST) before a byte of the answer
    TRUNCATED = "truncated"  # the headers and half of the body, then the connection is closed
    STALLED = "stalled"  # the headers and half of the body, then nothing until the client disconnects
    HANG = "hang"  # nothing until the client disconnects


@dataclass(frozen=True)
class Reply:
    """One answer of the server. Make it with the functions below.

    Args:
        status: the HTTP status.
        body: the bytes of the body.
        headers: further headers; ``Content-Type`` is ``application/json`` unless given here.
        delivery: how it reaches the client.
        held_until: send it when this event is set.
        hang_up: close the connection afterwards, without announcing it by ``Connection: close``.
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
    """Reply with exactly these bytes."""
    data = body.encode() if isinstance(body, str) else body
    return Reply(status, data, {"Content-Type": content_type, **(headers or {})})


def reply_json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """Reply with any value as JSON."""
    return raw(json.dumps(value), status=status, headers=headers)


def completion(
    message: Mapping[str, Any],
    *more_messages: Mapping[str, Any],
    finish_reason: Any = "stop",
    usage: Mapping[str, Any] | None = _AUTO,
    model: str = MODEL,
) -> Reply:
    """Reply with a ``chat.completion`` object.

    Args:
        message: the first choice's message, without ``role``.
        more_messages: the messages of further choices.
        finish_reason: of every choice.
        usage: 10 + 5 tokens by default; None leaves the field out.
        model: the model's name in the answer.
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
    """Reply with ``content``: text, or anything that a bad server may send. Options as for :func:`completion`."""
    return completion({"content": content}, **options)


def call(
    name: Any, arguments: Mapping[str, Any] | str | None = None, *, call_id: Any = _AUTO, as_object: bool = False
) -> dict[str, Any]:
    """Make one tool call for :func:`tool_calls`.

    Args:
        name: the tool's name.
        arguments: sent as JSON text, as the protocol requires; a ``str`` is sent unchanged, so it may be broken.
        call_id: made from the name by default; None leaves the field out.
        as_object: send the arguments as an object, which some servers do against the protocol.
    """
    sent: Any = arguments if isinstance(arguments, str) or as_object else json.dumps(dict(arguments or {}))
    body: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": sent}}
    if call_id is _AUTO:
        call_id = f"call_{name}_{next(_serial)}"
    if call_id is not None:
        body["id"] = call_id
    return body


def tool_calls(*calls: Mapping[str, Any], content: Any = None, **options: Any) -> Reply:
    """Reply with tool calls. Options as for :func:`completion`."""
    options.setdefault("finish_reason", "tool_calls")
    return completion({"content": content, "tool_calls": list(calls)}, **options)


def stream(*parts: str, usage: Mapping[str, Any] | None = None, model: str = MODEL) -> Reply:
    """Reply to ``stream: true`` with server-sent events: one chunk for each part, then ``[DONE]``."""

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
    """Reply with an error in the protocol's form. ``retry_after``: seconds, or an HTTP-date as text."""
    more = dict(headers or {})
    if retry_after is not None:
        more["Retry-After"] = str(retry_after)
    body = {"error": {"message": message, "type": type, "param": None, "code": code}}
    return reply_json(body, status=status, headers=more)


def html(page: str = "<html><body><h1>502 Bad Gateway</h1></body></html>", *, status: int = 200) -> Reply:
    """Reply with a page instead of JSON, as proxies and log-in portals do."""
    return raw(page, status=status, content_type="text/html; charset=utf-8")


def redirect(location: str, *, status: int = 307) -> Reply:
    """Redirect to ``location``."""
    return raw(b"", status=status, headers={"Location": location})


def reset() -> Reply:
    """Reset the connection before a byte of the answer."""
    return Reply(delivery=Delivery.RESET)


def truncated(reply: Reply | None = None) -> Reply:
    """Send the headers and half of the body of ``reply``, then close the connection."""
    return dataclasses.replace(reply or text("this will be cut"), delivery=Delivery.TRUNCATED)


def stalled(reply: Reply | None = None) -> Reply:
    """Send the headers and half of the body of ``reply``, then nothing until the client disconnects."""
    return dataclasses.replace(reply or text("this will stall"), delivery=Delivery.STALLED)


def hang() -> Reply:
    """Send nothing until the client disconnects."""
    return Reply(delivery=Delivery.HANG)


def held(reply: Reply, event: threading.Event) -> Reply:
    """Send ``reply`` once ``event`` is set. Stopping the server sets it too."""
    return dataclasses.replace(reply, held_until=event)
