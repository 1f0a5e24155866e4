"""The rehearsal model's server speaks the OpenAI chat-completions protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient

from pibot.rehearsal import MODEL_NAME, create_rehearsal_app
from tests.support.serving import ask, serving

SHELL = {
    "type": "function",
    "function": {
        "name": "shell_exec",
        "description": "Run a command.",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    },
}
LISTING = {"role": "user", "content": "List files in home directory"}
CALL = {"id": "c1", "type": "function", "function": {"name": "shell_exec", "arguments": "{}"}}
ASKING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "x"}


@pytest.fixture
def client() -> FlaskClient:
    return create_rehearsal_app(clock=lambda: 1_700_000_000.7).test_client()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(create_rehearsal_app()) as port:
        yield port


def body(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"model": "any-name", "messages": list(messages), **more}


def complete(client: FlaskClient, *messages: dict[str, Any], **more: Any) -> Any:
    response = client.post("/v1/chat/completions", json=body(*messages, **more))
    assert response.status_code == 200, response.text
    return response.json


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


# --- answers ---


def test_an_answer_has_the_protocols_form_and_names_no_ai(client: FlaskClient) -> None:
    got = complete(client, user("What is 2+2?"))
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "2+2 = 4"},
        "logprobs": None,
        "finish_reason": "stop",
    }
    assert got == {
        "id": got["id"],
        "created": 1_700_000_000,
        "model": "pibot-rehearsal-not-an-ai",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 13, "completion_tokens": 2, "total_tokens": 15},
    }


def test_a_tool_call_has_the_protocols_form(client: FlaskClient) -> None:
    got = complete(client, LISTING, tools=[SHELL])
    message = got["choices"][0]["message"]
    assert got["choices"][0]["finish_reason"] == "tool_calls"
    assert message["content"] is None
    call = message["tool_calls"][0]
    assert (call["type"], call["function"]["name"]) == ("function", "shell_exec")
    assert json.loads(call["function"]["arguments"]) == {"command": "ls -la ~", "timeout": 60}


def test_the_same_request_gets_the_same_answer(client: FlaskClient) -> None:
    assert complete(client, LISTING, tools=[SHELL]) == complete(client, LISTING, tools=[SHELL])


def test_it_calls_no_tool_if_the_request_forbids_it(client: FlaskClient) -> None:
    got = complete(client, LISTING, tools=[SHELL], tool_choice="none")
    assert got["choices"][0]["finish_reason"] == "stop"


def test_a_tools_answer_to_an_earlier_message_is_not_used_for_the_new_one(client: FlaskClient) -> None:
    got = complete(client, LISTING, ASKING, ANSWERED, {"role": "assistant", "content": "done"}, LISTING, tools=[SHELL])
    assert got["choices"][0]["finish_reason"] == "tool_calls"


def test_content_in_parts_is_read(client: FlaskClient) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "3*3?"}]
    assert complete(client, {"role": "user", "content": parts})["choices"][0]["message"]["content"] == "3*3 = 9"


def test_models_and_health_say_what_it_is(client: FlaskClient) -> None:
    models = client.get("/v1/models").json
    assert models is not None
    assert [(m["id"], m["object"]) for m in models["data"]] == [(MODEL_NAME, "model")]
    assert client.get("/health").json == {"status": "healthy", "role": "rehearsal", "model": MODEL_NAME}


# --- streaming ---


def events(port: int, *messages: dict[str, Any], **more: Any) -> list[Any]:
    answer = ask(port, "POST", "/v1/chat/completions", body(*messages, stream=True, **more))
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    lines = answer.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_the_pieces_of_a_streamed_text_make_the_whole(port: int) -> None:
    got = events(port, user("Hello"))
    assert got[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    pieces = [e["choices"][0]["delta"].get("content", "") for e in got]
    assert len(pieces) > 4
    assert "fixed rules" in "".join(pieces)
    assert [e["choices"][0]["finish_reason"] for e in got] == [None] * (len(got) - 1) + ["stop"]
    assert {(e["id"], e["object"], e["model"]) for e in got} == {(got[0]["id"], "chat.completion.chunk", MODEL_NAME)}


def test_the_pieces_of_a_streamed_tool_call_make_the_whole(port: int) -> None:
    got = events(port, LISTING, tools=[SHELL])
    deltas = [d for e in got for d in e["choices"][0]["delta"].get("tool_calls", [])]
    assert (deltas[0]["index"], deltas[0]["type"], deltas[0]["function"]["name"]) == (0, "function", "shell_exec")
    arguments = "".join(d["function"]["arguments"] for d in deltas)
    assert json.loads(arguments)["command"] == "ls -la ~"
    assert got[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_usage_is_streamed_on_request(port: int) -> None:
    got = events(port, user("Hello"), stream_options={"include_usage": True})
    assert got[-1]["choices"] == []
    assert got[-1]["usage"]["total_tokens"] == got[-1]["usage"]["prompt_tokens"] + got[-1]["usage"]["completion_tokens"]
    assert "usage" not in got[0]


def test_openais_own_library_understands_it(port: int) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(api_key="whatever", base_url=f"http://127.0.0.1:{port}/v1", max_retries=0) as client:
        answer = client.chat.completions.create(model="x", messages=[LISTING], tools=[SHELL])
        assert answer.choices[0].message.tool_calls[0].function.name == "shell_exec"
        chunks = list(client.chat.completions.create(model="x", messages=[user("Hello")], stream=True))
        assert "fixed rules" in "".join(c.choices[0].delta.content or "" for c in chunks)
        assert [m.id for m in client.models.list()] == [MODEL_NAME]
        with pytest.raises(openai.BadRequestError, match="messages must be a list"):
            client.chat.completions.create(model="x", messages=[])


# --- what it refuses ---


@pytest.mark.parametrize(
    ("request_body", "param", "words"),
    [
        ([], None, "must be a JSON object"),
        ({"messages": [LISTING]}, "model", "you must provide a model"),
        ({"model": 5, "messages": [LISTING]}, "model", "you must provide a model"),
        ({"model": "x"}, "messages", "must be a list"),
        (body(), "messages", "at least one message"),
        ({"model": "x", "messages": "hello"}, "messages", "must be a list"),
        (body("hello"), "messages[0]", "must be an object"),  # type: ignore[arg-type]
        (body({"role": "robot", "content": "x"}), "messages[0].role", "not 'robot'"),
        (body({"role": "user"}), "messages[0].content", "must be a text"),
        (body({"role": "user", "content": 5}), "messages[0].content", "must be a text"),
        (body({"role": "assistant", "content": None}), "messages[0].content", "must be a text"),
        (body(user("\ud800")), "messages[0]", "lone surrogate"),
        (body({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0]", "type text"),
        (body(LISTING, n=2), "n", "only n = 1"),
        (body(LISTING, stream="yes"), "stream", "true or false"),
        (body(LISTING, stream_options={"include_usage": True}), "stream_options", "requires stream"),
        (body(LISTING, tools="all"), "tools", "must be a list"),
        (body(LISTING, tools=["x"]), "tools[0]", "of type function"),
        (body(LISTING, tools=[{"type": "function", "function": {"name": "has space"}}]), "tools[0]", "letters, digits"),
        (
            body(LISTING, tools=[{"type": "function", "function": {"name": "x", "parameters": []}}]),
            "tools[0]",
            "JSON Schema",
        ),
        (body(LISTING, ANSWERED), "messages[1].tool_call_id", "must answer a tool call"),
        (body(LISTING, ASKING), "messages", "missing: c1"),
        (body(LISTING, ASKING, user("well?")), "messages", "missing: c1"),
        (body(LISTING, ASKING, ANSWERED, ANSWERED), "messages[3].tool_call_id", "must answer a tool call"),
        (body(LISTING, {**ASKING, "role": "user", "content": "x"}), "messages[1]", "only an assistant's message"),
        (body(LISTING, {**ASKING, "tool_calls": [{"id": "c1"}]}), "messages[1].tool_calls[0]", "must have an id"),
        (
            body(LISTING, {**ASKING, "tool_calls": [{**CALL, "function": {"name": "x", "arguments": {}}}]}),
            "messages[1].tool_calls[0]",
            "arguments as a text",
        ),
    ],
)
def test_a_broken_request_is_refused_as_openai_does(
    client: FlaskClient, request_body: Any, param: str | None, words: str
) -> None:
    response = client.post("/v1/chat/completions", data=json.dumps(request_body))
    assert response.status_code == 400
    error = response.json["error"]  # type: ignore[index]
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"nonsense", b"NaN", b"[" * 100_000])
def test_a_body_that_is_not_json_is_refused(client: FlaskClient, data: bytes) -> None:
    response = client.post("/v1/chat/completions", data=data)
    assert response.status_code == 400
    assert response.json["error"]["type"] == "invalid_request_error"  # type: ignore[index]


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/x", 404), ("GET", "/v1/chat/completions", 405)])
def test_an_unknown_path_or_method_is_an_error_in_openais_form(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    response = client.open(path, method=method)
    assert response.status_code == status
    assert path in response.json["error"]["message"]  # type: ignore[index]


def test_a_body_that_is_too_large_or_chunked_is_refused(port: int) -> None:
    assert ask(port, "POST", "/v1/chat/completions", b"{}", headers={"Content-Length": "99999999"}).status == 413
    chunked = {"Transfer-Encoding": "chunked"}
    assert ask(port, "POST", "/v1/chat/completions", b"0\r\n\r\n", headers=chunked).status == 411
