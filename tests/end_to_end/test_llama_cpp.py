"""A server that nobody of this project wrote: llama.cpp's, with a model of random numbers.

What it says is nonsense, but the protocol is real: answers, streams, counted tokens, a key, a full window. See
docs/decisions.md, D191.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pibot.agent_core import ToolAgent
from pibot.contracts import Budget, Message, TaskRequest, TaskState, ToolCall, ToolContext
from pibot.errors import LLMRejected, LLMTooLong
from pibot.llm_client import create_llm_client
from pibot.sandbox import create_command_runner
from pibot.settings import LLMSettings, Secret
from pibot.tool_registry import SkillLibrary
from tests.support.fleet import Fleet, fleet
from tests.support.llama_cpp import LONGEST_ANSWER, LlamaServer, llama_server
from tests.support.processes import ROOT

pytestmark = pytest.mark.system

KEY = "fleet-key-0123456789"
QUESTION = [Message("system", "Be brief."), Message("user", "What is a kettle? Was ist ein Kessel? 水壶是什么?")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    with llama_server(tmp_path_factory.mktemp("llama"), window=16384) as running:
        yield running


@pytest.fixture(scope="module")
def hub(server: LlamaServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("fleet"), workers=1, key=KEY, llm=settings(server)) as running:
        yield running


def settings(server: LlamaServer, backend: str = "aiohttp", key: str | None = None) -> LLMSettings:
    return LLMSettings(Secret(key or server.key), server.url, server.model, backend=backend, timeout=60.0, retries=0)


@pytest.mark.parametrize("backend", ["aiohttp", "openai"])
async def test_an_answer_comes_with_its_tokens(server: LlamaServer, backend: str) -> None:
    client = create_llm_client(settings(server, backend))
    completion = await client.complete(QUESTION)
    await client.close()
    assert completion.text.strip()
    assert completion.finish_reason in ("stop", "length")
    assert completion.usage.prompt_tokens > sum(len(message.content) for message in QUESTION)
    assert 0 < completion.usage.completion_tokens <= LONGEST_ANSWER


@pytest.mark.parametrize("backend", ["aiohttp", "openai"])
async def test_a_field_that_the_owner_adds_reaches_the_server(server: LlamaServer, backend: str) -> None:
    words = {"grammar": 'root ::= "a kettle boils water"'}  # llama.cpp's own field: the only words that may be said
    client = create_llm_client(replace(settings(server, backend), extra=words))
    completion = await client.complete(QUESTION)
    await client.close()
    assert (completion.text, completion.finish_reason) == ("a kettle boils water", "stop")


@pytest.mark.parametrize("backend", ["aiohttp", "openai"])
async def test_calls_and_their_results_go_back_as_the_server_wants_them(server: LlamaServer, backend: str) -> None:
    tools = SkillLibrary(ROOT / "skills").load(("file_ops",), ToolContext("t1", ROOT, create_command_runner("off")))
    call = ToolCall("call1", "list_files", {"path": "."}, '{"path": "."}')
    talk = [*QUESTION, Message("assistant", "", (call,)), Message("tool", "a.txt", tool_call_id="call1")]
    client = create_llm_client(settings(server, backend))
    without = await client.complete(QUESTION, tools.specs)
    answer = await client.complete(talk, tools.specs)
    await client.close()
    written = '<tool_call>{"name": "list_files", "arguments": {"path": "."}}</tool_call>a.txt'
    assert answer.usage.prompt_tokens >= without.usage.prompt_tokens + len(written)


@pytest.mark.parametrize("backend", ["aiohttp", "openai"])
async def test_a_prompt_beyond_the_window_is_told_with_both_numbers(server: LlamaServer, backend: str) -> None:
    client = create_llm_client(settings(server, backend))
    with pytest.raises(LLMTooLong) as told:
        await client.complete([Message("user", "x " * server.window)])
    await client.close()
    assert told.value.window == server.window
    assert told.value.sent is not None
    assert told.value.sent > 2 * server.window


@pytest.mark.parametrize("backend", ["aiohttp", "openai"])
async def test_a_wrong_key_is_told(server: LlamaServer, backend: str) -> None:
    client = create_llm_client(settings(server, backend, key="another-key-0123456789"))
    with pytest.raises(LLMRejected, match="VOLC_API_KEY") as told:
        await client.complete(QUESTION)
    await client.close()
    assert told.value.status == 401


async def test_a_task_with_tools_ends_whatever_the_model_says(server: LlamaServer, tmp_path: Path) -> None:
    names = ("file_ops", "shell_exec")
    tools = SkillLibrary(ROOT / "skills").load(names, ToolContext("t1", tmp_path, create_command_runner("off")))
    client = create_llm_client(settings(server))
    soul = (ROOT / "worker_soul.md").read_text("utf-8")
    agent = ToolAgent(client, tools, soul, Budget(max_steps=4, max_seconds=60.0))
    outcome = await agent.run(TaskRequest("t1", "List files in home directory", names))
    await client.close()
    assert outcome.state in (TaskState.COMPLETED, TaskState.FAILED)
    assert outcome.usage.prompt_tokens > 1000
    assert outcome.output or outcome.error


def test_a_stream_through_the_gateway_is_whole_and_counted(hub: Fleet) -> None:
    before = hub.ask("GET", "/usage?days=1").json()["today"]["total_tokens"]
    body = {"messages": [{"role": "user", "content": "hello"}], "stream": True}
    answer = hub.ask("POST", "/v1/chat/completions", {**body, "stream_options": {"include_usage": True}})
    assert (answer.status, answer.headers["Content-Type"].partition(";")[0]) == (200, "text/event-stream")
    lines = [line[len("data: ") :] for line in answer.body.decode().splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    said = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
    assert said.strip()
    (usage,) = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert hub.ask("GET", "/usage?days=1").json()["today"]["total_tokens"] - before == usage["total_tokens"]


def test_an_unread_plan_becomes_one_step_and_the_job_ends(hub: Fleet) -> None:
    job_id = hub.ask("POST", "/task", {"description": "look around"}).json()["job_id"]
    assert hub.result(job_id)["status"] in ("completed", "failed")
    job = hub.job(job_id)
    assert "plan could not be used" in job["plan"]["note"]
    assert {row["model"] for row in job["spending"]} == {"tiny"}
    assert job["usage"]["total_tokens"] > 1000
