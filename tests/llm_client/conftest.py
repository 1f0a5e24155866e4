"""Fixtures of the model client's tests: a scripted server, and clients of both backends with a fake clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Callable

import pytest

from pibot.contracts import Message
from pibot.llm_client import ChatClient, create_llm_client
from pibot.settings import LLMSettings, Secret
from tests.support.scripted_llm import API_KEY, MODEL, ScriptedLLM

HELLO = (Message("user", "hello"),)


@dataclass
class FakeTime:
    """A clock that advances only by sleeping."""

    now: float = 1000.0
    slept: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


MakeClient = Callable[..., ChatClient]


@pytest.fixture(params=["aiohttp", "openai"])
def backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    pytest.importorskip(name)
    return name


@pytest.fixture
def server() -> Iterator[ScriptedLLM]:
    with ScriptedLLM() as scripted:
        yield scripted


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def make_client(backend: str, server: ScriptedLLM, time: FakeTime) -> AsyncIterator[MakeClient]:
    """Create clients for the server. Keywords change settings; ``random`` sets the jitter, by default to none."""
    made: list[ChatClient] = []

    def make(*, random: float = 0.0, wall: float = 0.0, **changes: Any) -> ChatClient:
        settings = {"api_key": Secret(API_KEY), "base_url": server.url, "model": MODEL, "backend": backend, **changes}
        client = create_llm_client(
            LLMSettings(**settings),
            sleep=time.sleep,
            random=lambda: random,
            clock=time.clock,
            wall_clock=lambda: wall,
        )
        made.append(client)
        return client

    yield make
    for client in made:
        await client.close()
