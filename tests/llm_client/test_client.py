"""One model call, over both backends, against a real server."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any

import pytest

from pibot.contracts import Message, ToolCall, ToolSpec, Usage
from pibot.errors import LLMUnavailable
from tests.llm_client.conftest import HELLO, FakeTime, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import (
    API_KEY,
    MODEL,
    ScriptedLLM,
    call,
    completion,
    error,
    hang,
    html,
    raw,
    reply_json,
    reset,
    stalled,
    text,
    tool_calls,
    truncated,
)

LIST_FILES = ToolSpec("list_files", "List a folder.", {"type": "object", "properties": {"path": {"type": "string"}}})


async def test_the_text_the_usage_and_the_models_name_are_read(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(text("good day", model="scripted-model-2"))

    answer = await make_client().complete(HELLO)

    assert answer.text == "good day"
    assert answer.tool_calls == ()
    assert answer.usage == Usage(10, 5, llm_calls=1)
    assert answer.finish_reason == "stop"
    assert answer.model == "scripted-model-2"


async def test_the_whole_conversation_and_the_tools_are_sent_in_the_protocols_form(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("done"))
    asked = ToolCall("call_1", "list_files", {"path": "/"}, '{"path": "/"}')
    conversation = [
        Message("system", "be brief"),
        Message("user", "liste — файлы"),
        Message("assistant", "", (asked,)),
        Message("tool", "a\nb", tool_call_id="call_1"),
    ]

    await make_client().complete(conversation, [LIST_FILES])

    [request] = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.authorization == f"Bearer {API_KEY}"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("pibot/")
    assert request.json == {
        "model": MODEL,
        "messages": [message.to_json() for message in conversation],
        "tools": [LIST_FILES.to_json()],
    }


async def test_without_tools_the_field_is_left_out_because_servers_refuse_an_empty_list(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("done"))

    await make_client().complete(HELLO)

    assert "tools" not in server.requests[0].json


async def test_a_file_name_that_is_no_utf8_does_not_stop_the_conversation(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("done"))

    await make_client().complete([Message("tool", "caf\udce9.txt", tool_call_id="call_1")])

    assert server.requests[0].messages[0]["content"] == "caf?.txt"


async def test_tool_calls_are_read(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(tool_calls(call("list_files", {"path": "/"}, call_id="call_9"), call("now", "", call_id="call_10")))

    answer = await make_client().complete(HELLO, [LIST_FILES])

    assert answer.finish_reason == "tool_calls"
    assert answer.tool_calls == (
        ToolCall("call_9", "list_files", {"path": "/"}, '{"path": "/"}'),
        ToolCall("call_10", "now", {}, "{}"),
    )


async def test_broken_arguments_come_back_as_a_problem_and_the_conversation_can_go_on(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(tool_calls(call("list_files", '{"path": ')), text("sorry"))
    client = make_client()

    [broken] = (await client.complete(HELLO, [LIST_FILES])).tool_calls
    await client.complete([*HELLO, Message("assistant", "", (broken,))])

    assert broken.arguments is None
    assert broken.problem is not None
    assert '{"path": ' in broken.problem
    assert json.loads(server.requests[1].messages[1]["tool_calls"][0]["function"]["arguments"]) == {}


async def test_the_first_of_several_choices_is_used(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(completion({"content": "first"}, {"content": "second"}))

    assert (await make_client().complete(HELLO)).text == "first"


async def test_a_compressed_answer_is_read(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(raw(gzip.compress(text("small").body), headers={"Content-Encoding": "gzip"}))

    assert (await make_client().complete(HELLO)).text == "small"


async def test_the_connection_is_kept_for_the_next_call(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.answer_with(text("again"))
    client = make_client()

    for _ in range(3):
        await client.complete(HELLO)

    assert [request.connection for request in server.requests] == [1, 1, 1]


async def test_a_connection_that_the_server_closed_while_idle_causes_no_error(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    hang_up: Reply = raw(text("bye").body)
    server.enqueue(Reply(hang_up.status, hang_up.body, hang_up.headers, hang_up=True))
    server.answer_with(text("hello again"))
    client = make_client()

    await client.complete(HELLO)

    assert (await client.complete(HELLO)).text == "hello again"


async def test_concurrent_calls_each_get_their_own_answer(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.answer_with(lambda request: text(request.messages[-1]["content"]))
    client = make_client()

    answers = await asyncio.gather(*(client.complete([Message("user", str(n))]) for n in range(20)))

    assert [answer.text for answer in answers] == [str(n) for n in range(20)]


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(error(500), id="500"),
        pytest.param(error(502), id="502"),
        pytest.param(html(status=503), id="503 with a page"),
        pytest.param(error(529, "overloaded"), id="529"),
        pytest.param(error(429), id="429"),
        pytest.param(error(408), id="408"),
        pytest.param(error(409), id="409"),
        pytest.param(reset(), id="connection reset"),
        pytest.param(truncated(), id="truncated body"),
        pytest.param(raw(""), id="empty body"),
        pytest.param(raw('{"id": "x", "choi'), id="broken JSON"),
        pytest.param(reply_json({"id": "x", "choices": []}), id="empty choices"),
        pytest.param(reply_json({"id": "x", "choices": None}), id="choices null"),
        pytest.param(error(200, "upstream failed", code=502), id="error object with HTTP 200"),
        pytest.param(error(200, "overloaded", type="server_error"), id="error object with HTTP 200 and no number"),
    ],
)
async def test_a_temporary_failure_is_retried(
    make_client: MakeClient, server: ScriptedLLM, time: FakeTime, failure: Reply
) -> None:
    server.enqueue(failure, text("now it works"))

    answer = await make_client(random=0.5).complete(HELLO)

    assert answer.text == "now it works"
    assert answer.usage.llm_calls == 1
    assert time.slept == [0.25]
    server.assert_done()


@pytest.mark.parametrize("silence", [hang(), stalled()], ids=["before", "within its answer"])
async def test_a_silent_server_is_asked_again_after_the_limit_for_one_attempt(
    make_client: MakeClient, server: ScriptedLLM, silence: Reply
) -> None:
    server.enqueue(silence)
    server.answer_with(text("now it works"))

    assert (await make_client(timeout=0.5).complete(HELLO)).text == "now it works"
    await asyncio.to_thread(server.wait_for_disconnects, 1)


async def test_the_timeout_bounds_the_call_with_its_retries(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.answer_with(hang())

    with pytest.raises(LLMUnavailable, match=r"gave no whole answer within 0\.2 seconds"):
        await make_client(retries=0).complete(HELLO, timeout=0.2)


@pytest.mark.parametrize("timeout", [0.0, -1.0])
async def test_nothing_is_sent_without_time_left(make_client: MakeClient, server: ScriptedLLM, timeout: float) -> None:
    with pytest.raises(LLMUnavailable, match="no time left"):
        await make_client().complete(HELLO, timeout=timeout)

    assert server.requests == []


async def test_cancelling_a_call_drops_its_connection(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(hang())
    calling = asyncio.create_task(make_client().complete(HELLO))
    await asyncio.to_thread(server.wait_for_requests, 1)

    calling.cancel()

    with pytest.raises(asyncio.CancelledError):
        await calling
    await asyncio.to_thread(server.wait_for_disconnects, 1)


async def test_the_query_of_the_base_url_is_kept(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(text("hi"))

    await make_client(base_url=f"{server.url}?api-version=2025-01-01&x=a%20b").complete(HELLO)

    assert server.requests[0].path in (
        "/v1/chat/completions?api-version=2025-01-01&x=a+b",
        "/v1/chat/completions?api-version=2025-01-01&x=a%20b",
    )


async def test_the_client_has_the_models_name(make_client: MakeClient) -> None:
    assert make_client(model="some-model").model == "some-model"


def test_the_scripted_reply_is_a_real_completion() -> None:
    body: dict[str, Any] = json.loads(text("hi").body)

    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "hi"}
