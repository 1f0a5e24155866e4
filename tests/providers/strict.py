"""Scripted servers that refuse what single providers refuse, and send what they send, over real HTTP.

The rules are from the providers' documentation and from reports of their users. Behind each server is the same model,
which knows the conversation alone: it calls as many tools as its task says, and then answers.
"""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from pibot.llm_client.shaping import NO_SIGNATURE
from pibot.master_components.planner import PLAN_MARK, SUMMARY_MARK
from tests.support.replies import Delivery, Reply, error, raw, reply_json
from tests.support.scripted_llm import RecordedRequest, ScriptedLLM

Body = dict[str, Any]
Refuse = Callable[[Body], Optional[str]]

STEPS = ("first", "second", "third")
PLAN = {
    "complexity": "complex",
    "handle_locally": False,
    "subtasks": [
        {"task_id": "first", "description": "Make 4 calls.", "skills": ["looking"], "depends_on": []},
        {"task_id": "second", "description": "Make 3 calls.", "skills": ["looking"], "depends_on": ["first"]},
        {"task_id": "third", "description": "Make 3 calls.", "skills": ["looking"], "depends_on": ["second"]},
    ],
    "reasoning": "It has parts.",
}
SUMMED_UP = "All three steps are done."


@dataclass(frozen=True)
class Provider:
    """How one provider behaves.

    Args:
        name: of its profile.
        model: a name that it has.
        refuse: returns its sentence for a request that it refuses; None for one that it takes.
        refusal: makes the answer of such a sentence.
        thinks: the field in which its thoughts come; empty for none, ``content`` for a block in the text.
        signs: whether its calls come with a signature.
        ids: makes the id of a call of this number; None for a provider that sends none.
        calls_as_text: whether its calls come as markup in the text.
        numbers: whether a streamed call has a number.
        beside: what its content is beside calls.
        keepalive: what its streams begin with.
    """

    name: str
    model: str
    refuse: Refuse
    refusal: Callable[[str], Reply]
    thinks: str = ""
    signs: bool = False
    ids: Callable[[int], str | None] = lambda number: f"call_{number:024d}"
    calls_as_text: bool = False
    numbers: bool = True
    beside: str | None = ""
    keepalive: str = ""


@dataclass
class Server:
    """A running provider.

    Attributes:
        refused: its refusals so far.
        down_after: from this number of answered model calls on it is overloaded; None for never.
    """

    provider: Provider
    llm: ScriptedLLM
    refused: list[str] = field(default_factory=list)
    down_after: int | None = None
    answered: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, request: RecordedRequest) -> Reply:
        with self._lock:
            if self.down_after is not None and self.answered >= self.down_after:
                return error(503, "overloaded")
            sentence = basic(request.json) or self.provider.refuse(request.json)
            if sentence is not None:
                self.refused.append(sentence)
                return self.provider.refusal(sentence)
            self.answered += 1
            return deliver(self.provider, request.json, self.answered)


def serve(provider: Provider) -> Iterator[Server]:
    """Run a provider."""
    with ScriptedLLM() as llm:
        server = Server(provider, llm)
        llm.answer_with(server.answer)
        yield server


# The model.


def text_of(message: Body) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def think(body: Body) -> str | int:
    """Return the answer, or how many calls the model makes now."""
    said = "\n".join(text_of(message) for message in body["messages"])
    if PLAN_MARK in said:
        return json.dumps(PLAN)
    if SUMMARY_MARK in said:
        return SUMMED_UP
    wanted = re.search(r"Make (\d+) calls", said)
    done = sum(m["role"] == "tool" or "The tool's result:" in text_of(m) for m in body["messages"])
    left = int(wanted[1]) - done if wanted else 1 - done
    if left > 0:
        assert body.get("tools"), "the model has no tool to call"
        return 2 if done == 0 and left > 1 else 1
    return json.dumps({"success": True, "data": {"calls": done}, "output": f"{done} calls made"})


THOUGHTS = '<think>\nMaybe {"success": false, "output": "no"}.\n</think>\n\n'

ARGUMENTS: dict[str, Body] = {
    "look": {"what": "tree", "tags": ["a"]},
    "shell_exec": {"command": "ls ~"},
    "web_fetch": {"url": "http://page.example/"},
    "write_file": {"path": "test.txt", "content": "hello"},
}


# What a provider sends.


def deliver(provider: Provider, body: Body, number: int) -> Reply:
    thought = think(body)
    message: Body = {"role": "assistant", "content": provider.beside if isinstance(thought, int) else thought}
    if isinstance(thought, int):
        function = body["tools"][0]["function"]
        calls = [make_call(provider, function["name"], number * 10 + place, place) for place in range(thought)]
        if provider.calls_as_text:
            message["content"] = "I will look.\n" + "\n".join(map(markup, calls))
        else:
            message["tool_calls"] = calls
    if provider.thinks == "content":
        message["content"] = THOUGHTS + (message["content"] or "")
    elif provider.thinks == "reasoning_details":
        message |= {"reasoning": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm", "index": 0}]}
    elif provider.thinks:
        message[provider.thinks] = f"Thought number {number}."
    reason = "tool_calls" if message.get("tool_calls") else "stop"
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    head = {"id": f"c-{number}", "created": 1, "model": body["model"]}
    if body.get("stream") is True:
        return streamed(provider, head, message, reason, usage, body)
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return reply_json({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


def make_call(provider: Provider, name: str, number: int, place: int) -> Body:
    call: Body = {"type": "function", "function": {"name": name, "arguments": json.dumps(ARGUMENTS[name])}}
    call_id = provider.ids(number)
    if call_id is not None:
        call["id"] = call_id
    if provider.signs and place == 0:
        call["extra_content"] = {"google": {"thought_signature": f"signature-{number}"}}
    return call


def markup(call: Body) -> str:
    arguments = json.loads(call["function"]["arguments"])
    parameters = "".join(
        f'<parameter name="{name}">{value if isinstance(value, str) else json.dumps(value)}</parameter>\n'
        for name, value in arguments.items()
    )
    return f'<seed:tool_call>\n<function name="{call["function"]["name"]}">\n{parameters}</function>\n</seed:tool_call>'


def streamed(provider: Provider, head: Body, message: Body, reason: str, usage: Body, body: Body) -> Reply:
    deltas: list[Body] = [{"role": "assistant", "content": ""}]
    for name in ("reasoning_content", "reasoning"):
        if name in message:
            deltas += [{name: message[name][:2]}, {name: message[name][2:]}]
    if "reasoning_details" in message:
        deltas.append({"reasoning_details": message["reasoning_details"]})
    content = message["content"] or ""
    deltas += [{"content": content[at : at + 40]} for at in range(0, len(content), 40)]
    for place, call in enumerate(message.get("tool_calls", ())):
        number = {"index": place} if provider.numbers else {}
        if not provider.numbers:
            deltas.append({"tool_calls": [call]})
            continue
        arguments = call["function"]["arguments"]
        begin = {**call, "function": {"name": call["function"]["name"], "arguments": arguments[:3]}}
        deltas.append({"tool_calls": [{**number, **begin}]})
        deltas.append({"tool_calls": [{**number, "function": {"arguments": arguments[3:]}}]})
    events: list[Body] = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        events.append({"choices": [], "usage": usage})
    lines = [f"data: {json.dumps({**head, 'object': 'chat.completion.chunk', **event})}\n\n" for event in events]
    whole = raw(provider.keepalive + "".join(lines) + "data: [DONE]\n\n", content_type="text/event-stream")
    return dataclasses.replace(whole, delivery=Delivery.CHUNKED)


# What a provider refuses.


def assistants(body: Body) -> list[Body]:
    return [message for message in body["messages"] if message["role"] == "assistant"]


def calls(body: Body) -> list[Body]:
    return [call for message in assistants(body) for call in message.get("tool_calls") or ()]


def basic(body: Body) -> str | None:
    """What every provider refuses."""
    open_ids: list[str] = []
    for message in body["messages"]:
        if open_ids and message["role"] != "tool":
            return f"tool_call_ids did not have response messages: {open_ids}"
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_ids:
                return "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
            open_ids.remove(message["tool_call_id"])
        for call in message.get("tool_calls") or ():
            if not isinstance(json.loads(call["function"]["arguments"]), dict):
                return "arguments must be an object"
            if not call.get("id") or call["id"] in open_ids:
                return "tool_calls must have ids of their own"
            open_ids.append(call["id"])
        if message["role"] == "assistant" and not message.get("content") and not message.get("tool_calls"):
            return "assistant message must have either content or tool_calls"
    return None


def unknown_fields(body: Body, *known: str) -> tuple[str | int, ...] | None:
    """Return the path of the first field of a message that is neither the protocol's nor known."""
    fields = {"role", "content", "tool_calls", "tool_call_id", "name", *known}
    for number, message in enumerate(body["messages"]):
        for name in message:
            if name not in fields:
                return "messages", number, message["role"], name
        for call in message.get("tool_calls") or ():
            for name in call:
                if name not in ("id", "type", "function", *known):
                    return "messages", number, message["role"], "tool_calls", name
    return None


def schemas(body: Body) -> Iterator[Body]:
    """Yield every schema in the tools, at every depth."""

    def inner(schema: Any) -> Iterator[Body]:
        if isinstance(schema, dict):
            yield schema
            for part in (schema.get("properties") or {}).values():
                yield from inner(part)
            for name in ("items", "additionalProperties"):
                yield from inner(schema.get(name))
            for part in schema.get("anyOf") or ():
                yield from inner(part)

    for tool in body.get("tools") or ():
        yield from inner(tool["function"].get("parameters"))


def openai_error(status: int = 400) -> Callable[[str], Reply]:
    return lambda sentence: error(status, sentence, type="invalid_request_error")


def ark(body: Body) -> str | None:
    return None if unknown_fields(body, "reasoning_content") is None else "the request has an unknown field"


def deepseek(body: Body) -> str | None:
    for message in assistants(body):
        if message.get("tool_calls") and not message.get("reasoning_content"):
            return "The `reasoning_content` in the thinking mode must be passed back to the API."
    return None


def kimi(body: Body) -> str | None:
    for number, message in enumerate(body["messages"]):
        if message["role"] != "assistant":
            continue
        if message.get("tool_calls") and not message.get("reasoning_content"):
            return (
                f"thinking is enabled but reasoning_content is missing in assistant tool call message at index {number}"
            )
        if message.get("content") == "":
            return f"message at position {number} must not be empty"
    return None


GEMINI_WORDS = {
    *("type", "title", "description", "nullable", "enum", "properties", "required", "items", "anyOf", "default"),
    *("minimum", "maximum", "minItems", "maxItems", "minLength", "maxLength", "pattern", "format"),
}


def gemini(body: Body) -> str | None:
    place = "'tools[0].function_declarations[0].parameters'"
    for schema in schemas(body):
        for name in schema:
            if name not in GEMINI_WORDS:
                return f'Invalid JSON payload received. Unknown name "{name}" at {place}: Cannot find field.'
        if isinstance(schema.get("type"), list):
            return f'Invalid value at {place}: Proto field is not repeating, cannot start list. "type"'
        if schema.get("type") == "object" and not schema.get("properties"):
            return "function_declarations[0].parameters.properties: should be non-empty for OBJECT type"
        if schema.get("format") not in (None, "date-time", "enum"):
            return "parameters.properties[when].format: only 'enum' and 'date-time' are supported for STRING type"
    for message in assistants(body):
        sent = message.get("tool_calls") or ()
        if sent and "extra_content" not in sent[0]:
            return "Function call is missing a thought_signature in functionCall parts."
        for call in sent:
            signature = call.get("extra_content", {}).get("google", {}).get("thought_signature", "signature-0")
            made_up = signature == NO_SIGNATURE["google"]["thought_signature"]
            if not made_up and not re.fullmatch(r"signature-\d+", signature):
                return "Thought signature is not valid."
    return None


def mistral(body: Body) -> str | None:
    place = unknown_fields(body, "prefix")
    if place is not None:
        return json.dumps(["body", *place])
    for name in ("stream_options", "max_completion_tokens"):
        if name in body:
            return json.dumps(["body", name])
    for call in calls(body):
        if not re.fullmatch(r"[A-Za-z0-9]{9}", call["id"]):
            return f"Tool call id was {call['id']} but must be a-z, A-Z, 0-9, with a length of 9."
    roles = [message["role"] for message in body["messages"]]
    for before, after in zip(roles, roles[1:]):
        if (before, after) == ("tool", "user"):
            return "Unexpected role 'user' after role 'tool'"
    if roles[-1] not in ("user", "tool"):
        return f"Expected last role User or Tool (or Assistant with prefix True) for serving but got {roles[-1]}"
    return None


def mistral_error(sentence: str) -> Reply:
    if sentence.startswith("["):
        detail = [{"type": "extra_forbidden", "loc": json.loads(sentence), "msg": "Extra inputs are not permitted"}]
        unknown = {"object": "error", "message": {"detail": detail}, "type": "invalid_request_error"}
        return reply_json(unknown, status=422)
    body = {"object": "error", "message": sentence, "type": "invalid_request_message_order", "code": "3230"}
    return reply_json(body, status=400)


def openai(body: Body) -> str | None:
    if "max_tokens" in body:
        return (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
    if body.get("temperature", 1) != 1:
        return "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default (1) works."
    place = unknown_fields(body)
    if place is not None:
        return f"Unrecognized request argument supplied: {place[-1]}"
    if any(len(call["id"]) > 40 for call in calls(body)):
        return "Invalid 'messages[2].tool_calls[0].id': string too long. Expected a string with maximum length 40"
    return None


def qwen(body: Body) -> str | None:
    if body.get("stream") is not True:
        return "parameter.enable_thinking must be set to false for non-streaming calls"
    return None


def lm_studio(body: Body) -> str | None:
    rendering = "Error rendering prompt with jinja template: "
    if any(isinstance(schema.get("type"), list) for schema in schemas(body)):
        return rendering + '"Cannot apply filter upper to type: [array]", in the "type" of a tool\'s parameters schema'
    if any(message["role"] == "system" for message in body["messages"][1:]):
        return rendering + "System message must be at the beginning."
    if body["messages"][-1]["role"] != "user":
        return rendering + "No user query found in messages: the last message must be from the user."
    if any(message.get("content", "") is None for message in body["messages"]):
        return rendering + "content is null, a string is required"
    return None


def llama_cpp(body: Body) -> str | None:
    if any(message["role"] in ("system", "developer") for message in body["messages"]):
        return "Jinja Exception: System role not supported"
    if any(len(message.get("tool_calls") or ()) > 1 for message in assistants(body)):
        return "Jinja Exception: This model only supports single tool-calls at once!"
    if any(isinstance(schema.get("type"), list) for schema in schemas(body)):
        return "JSON schema conversion failed: Unrecognized schema: a list of types"
    if any(message.get("content", "") is None for message in body["messages"]):
        return "[json.exception.type_error.302] type must be string, but is null: content"
    return None


def vllm(body: Body) -> str | None:
    known = {"model", "messages", "tools", "stream", "stream_options", "temperature", "max_tokens"}
    for name in body:
        if name not in known:
            return json.dumps(["body", name])
    if any("content" not in message for message in assistants(body)):
        return json.dumps(["body", "messages", 2, "content"])
    return None


def fastapi_error(sentence: str) -> Reply:
    detail = [{"type": "extra_forbidden", "loc": json.loads(sentence), "msg": "Extra inputs are not permitted"}]
    return reply_json({"detail": detail}, status=422)


def openrouter(body: Body) -> str | None:
    for message in assistants(body):
        if message.get("tool_calls") and "reasoning" in message and "reasoning_details" not in message:
            return "reasoning_details must be preserved"
    return None


def anthropic(body: Body) -> str | None:
    for message in body["messages"]:
        if message.get("content") == "":
            return "messages: text content blocks must be non-empty"
    for call in calls(body):
        if not re.fullmatch(r"[a-zA-Z0-9_-]+", call["id"]):
            return "messages.2.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    return None if unknown_fields(body) is None else f"{unknown_fields(body)}: Extra inputs are not permitted"


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("ark", "doubao-seed-code", ark, openai_error(), thinks="reasoning_content", calls_as_text=True),
        Provider("deepseek", "deepseek-v4-flash", deepseek, openai_error(), thinks="reasoning_content"),
        Provider("moonshot", "kimi-k2.5", kimi, openai_error(), thinks="reasoning_content", ids=lambda n: f"look:{n}"),
        Provider(
            "gemini",
            "gemini-3-pro",
            gemini,
            openai_error(),
            signs=True,
            ids=lambda n: f"function-call-{n}",
            numbers=False,
            beside=None,
        ),
        Provider("mistral", "mistral-large-latest", mistral, mistral_error, ids=lambda n: f"Ab{n:07d}"),
        Provider("openai", "gpt-5", openai, openai_error(), beside=None),
        Provider("dashscope", "qwen3-32b", qwen, openai_error(), thinks="reasoning_content"),
        Provider("ollama", "qwen3:8b", lambda body: None, openai_error(), thinks="content", ids=lambda n: f"call_{n}"),
        Provider("lmstudio", "qwen3-8b", lm_studio, openai_error(), thinks="content", ids=lambda n: str(n)),
        Provider("llamacpp", "local", llama_cpp, openai_error(500), ids=lambda n: None),
        Provider("vllm", "served-model", vllm, fastapi_error, thinks="reasoning", ids=lambda n: f"chatcmpl-{n:032x}"),
        Provider(
            "openrouter",
            "some/model",
            openrouter,
            openai_error(),
            thinks="reasoning_details",
            keepalive=": OPENROUTER PROCESSING\n\n",
        ),
        Provider("anthropic", "claude-x", anthropic, openai_error(), ids=lambda n: f"toolu_{n:020d}", beside=None),
    )
}
