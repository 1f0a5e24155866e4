"""A client can be created without an event loop, follows its caller to another loop, and leaves nothing open."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pibot.contracts import LLMClient
from pibot.errors import LLMUnavailable
from pibot.llm_client import ChatClient, create_llm_client
from pibot.settings import LLMSettings, Secret
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.scripted_llm import API_KEY, MODEL, ScriptedLLM, text

pytestmark = pytest.mark.slow


def client_of(server: ScriptedLLM, backend: str) -> ChatClient:
    return create_llm_client(LLMSettings(Secret(API_KEY), server.url, MODEL, backend))


async def ask(client: LLMClient) -> str:
    return (await client.complete(HELLO)).text


async def finish_tasks() -> None:
    await asyncio.sleep(0)  # run what another loop scheduled
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))


async def test_closing_twice_is_fine_and_a_closed_client_refuses_calls(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("hi"))
    client = make_client()
    await client.complete(HELLO)

    await client.close()
    await client.close()

    with pytest.raises(LLMUnavailable, match="was closed"):
        await client.complete(HELLO)
    server.assert_done()


async def test_closing_a_client_that_was_never_used_is_fine(make_client: MakeClient) -> None:
    await make_client().close()


async def test_a_client_is_an_async_context_manager(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(text("hi"))

    async with make_client() as client:
        await client.complete(HELLO)

    with pytest.raises(LLMUnavailable, match="was closed"):
        await client.complete(HELLO)


def test_a_client_made_outside_of_any_loop_works_in_one(backend: str, server: ScriptedLLM) -> None:
    server.enqueue(text("hi"))
    client = client_of(server, backend)

    async def use() -> str:
        async with client:
            return await ask(client)

    loop = asyncio.new_event_loop()  # after asyncio.run in a test, pytest-asyncio leaves a loop open on Python 3.9
    try:
        assert loop.run_until_complete(use()) == "hi"
    finally:
        loop.close()


def test_a_client_moves_on_to_another_loop(backend: str, server: ScriptedLLM) -> None:
    server.answer_with(text("hi"))
    client = client_of(server, backend)
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    try:
        assert [loop.run_until_complete(ask(client)) for loop in (first, second, second)] == ["hi"] * 3
        second.run_until_complete(client.close())
        for loop in (first, second):  # let each loop close its own resources
            loop.run_until_complete(finish_tasks())
    finally:
        first.close()
        second.close()
    assert [request.connection for request in server.requests] == [1, 2, 2]


DROPPED = """
import asyncio, gc
from pibot.contracts import Message
from pibot.llm_client import create_llm_client_from_env

async def use():
    client = create_llm_client_from_env()
    return (await client.complete([Message("user", "hello")])).text

print(asyncio.run(use()))
gc.collect()
"""


def test_a_client_that_is_dropped_without_being_closed_leaves_nothing_open(
    backend: str, server: ScriptedLLM, tmp_path: Path
) -> None:
    """The guide's scripts do this. An object left open would warn when it is collected."""
    server.answer_with(text("hi"))
    environ = {**os.environ, **server.environ(PIBOT_LLM_BACKEND=backend)}

    ended = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", DROPPED],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.stdout, ended.stderr) == ("hi\n", "")
