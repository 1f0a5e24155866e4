"""Serve the rehearsal model with the OpenAI chat-completions protocol."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from typing import Any, Union

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from pibot import logs, web
from pibot.contracts import Clock
from pibot.errors import InvalidRequest
from pibot.logs import event
from pibot.rehearsal.conversation import Conversation, read_request, tokens
from pibot.rehearsal.outcome import MODEL_NAME
from pibot.rehearsal.planner import PLAN_MARKER, SUMMARY_MARKER, plan, summary
from pibot.rehearsal.replanner import REPLAN_MARKER, replan
from pibot.rehearsal.worker import Call, play

log = logging.getLogger("pibot.rehearsal")

MAX_BODY = 16 * 1024 * 1024
"""Bytes of a request. A task's largest conversation is far smaller."""

PIECE = 24
"""Characters of one streamed piece."""


def respond(conversation: Conversation) -> Union[Call, str]:
    """Return the model's tool call or text. Markers in the system message identify the planner's requests."""
    if PLAN_MARKER in conversation.system:
        return plan(conversation)
    if SUMMARY_MARKER in conversation.system:
        return summary(conversation)
    if REPLAN_MARKER in conversation.system:
        return replan(conversation)
    return play(conversation)


def create_rehearsal_app(*, clock: Clock = time.time) -> Flask:
    """Create the server's app.

    Args:
        clock: seconds since the epoch, for ``created`` in the answers.
    """
    app = Flask("pibot.rehearsal", static_folder=None)
    app.register_error_handler(InvalidRequest, lambda exc: _error(400, str(exc), param=exc.field))
    app.register_error_handler(HTTPException, _http_error)

    @app.before_request
    def bounded() -> Response | None:
        if request.headers.get("Transfer-Encoding"):
            return _error(411, "a chunked body is not supported; send it with a Content-Length")
        if (request.content_length or 0) > MAX_BODY:
            return _error(413, f"the body has {request.content_length} bytes; at most {MAX_BODY} are allowed")
        return None

    @app.get("/health")
    def health() -> Response:
        return web.answer({"status": "healthy", "role": "rehearsal", "model": MODEL_NAME})

    @app.get("/v1/models")
    def models() -> Response:
        model = {"id": MODEL_NAME, "object": "model", "created": 0, "owned_by": "pibot"}
        return web.answer({"object": "list", "data": [model]})

    @app.post("/v1/chat/completions")
    def chat_completions() -> Response:
        conversation = read_request(web.json_body())
        said = respond(conversation)
        head = {"id": _id(conversation), "created": int(clock()), "model": MODEL_NAME}
        usage = _usage(conversation, said)
        if conversation.stream:
            pieces = _stream(head, conversation, said, usage)
            return Response(pieces, mimetype="text/event-stream", headers={"Cache-Control": "no-cache"})
        choice = {"index": 0, "message": _message(conversation, said), "logprobs": None, "finish_reason": _reason(said)}
        return web.answer({**head, "object": "chat.completion", "choices": [choice], "usage": usage})

    return app


def run_rehearsal(host: str, port: int) -> None:
    """Serve the rehearsal model until SIGTERM or SIGINT.

    Args:
        host: the address to listen on.
        port: the port to listen on; 0 for any free one.

    Raises:
        SettingsError: the address is not available.
    """
    logs.configure("rehearsal", None)

    def ready(bound_port: int) -> None:
        event(log, "rehearsal_ready", listen=f"http://{host}:{bound_port}", model=MODEL_NAME)

    web.serve(create_rehearsal_app(), host=host, port=port, stop=lambda: None, ready=ready)


# --- the protocol -----------------------------------------------------------


def _id(conversation: Conversation) -> str:
    return "chatcmpl-" + hashlib.sha256(repr(conversation.said).encode("utf-8", "replace")).hexdigest()[:24]


def _tool_call(conversation: Conversation, call: Call) -> dict[str, Any]:
    """Return the tool call's JSON. Its id is unique in the conversation, which grows with each call."""
    arguments = json.dumps(dict(call.arguments), ensure_ascii=False)
    function = {"name": call.tool, "arguments": arguments}
    return {"id": f"call_{len(conversation.said)}", "type": "function", "function": function}


def _message(conversation: Conversation, said: Union[Call, str]) -> dict[str, Any]:
    if isinstance(said, Call):
        return {"role": "assistant", "content": None, "tool_calls": [_tool_call(conversation, said)]}
    return {"role": "assistant", "content": said}


def _reason(said: Union[Call, str]) -> str:
    return "tool_calls" if isinstance(said, Call) else "stop"


def _usage(conversation: Conversation, said: Union[Call, str]) -> dict[str, int]:
    text = said if isinstance(said, str) else json.dumps(dict(said.arguments)) + said.tool
    completion = tokens(len(text))
    return {
        "prompt_tokens": conversation.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": conversation.prompt_tokens + completion,
    }


def _stream(
    head: dict[str, Any], conversation: Conversation, said: Union[Call, str], usage: dict[str, int]
) -> Iterator[str]:
    """Yield the answer as server-sent events; the last is ``[DONE]``."""

    def event(choices: list[dict[str, Any]], **more: object) -> str:
        body = {**head, "object": "chat.completion.chunk", "choices": choices, **more}
        return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"

    def delta(value: dict[str, Any], reason: str | None = None) -> str:
        return event([{"index": 0, "delta": value, "logprobs": None, "finish_reason": reason}])

    yield delta({"role": "assistant", "content": "" if isinstance(said, str) else None})
    if isinstance(said, str):
        for piece in _pieces(said):
            yield delta({"content": piece})
    else:
        call = _tool_call(conversation, said)
        arguments = call["function"]["arguments"]
        call["function"] = {**call["function"], "arguments": ""}
        yield delta({"tool_calls": [{"index": 0, **call}]})
        for piece in _pieces(arguments):
            yield delta({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    yield delta({}, _reason(said))
    if conversation.stream_usage:
        yield event([], usage=usage)
    yield "data: [DONE]\n\n"


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + PIECE] for at in range(0, len(text), PIECE))


# --- errors -----------------------------------------------------------------


def _error(status: int, message: str, *, param: str | None = None, code: str | None = None) -> Response:
    """Return an error in OpenAI's form."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return web.answer({"error": {"message": message, "type": kind, "param": param, "code": code}}, status)


def _http_error(exc: HTTPException) -> Response:
    known = {404: f"there is nothing at {request.path}", 405: f"{request.path} does not take {request.method}"}
    status = exc.code or 500
    return _error(status, known.get(status) or exc.description or exc.name)
