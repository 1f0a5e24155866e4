"""The guide's example tasks, and a job of three steps with ten tool calls, on every provider's strict server."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pibot.agent_core import ToolAgent
from pibot.background import BackgroundLoop
from pibot.contracts import AgentOutcome, Budget, TaskRequest, TaskState, ToolCall, ToolResult, ToolSpec, WorkerAddress
from pibot.llm_client import create_llm_client
from pibot.llm_client.profiles import for_endpoint
from pibot.settings import LLMSettings, Secret, Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.agents import create_task_agents
from pibot.worker.api import create_worker_app
from pibot.worker_task_executor import TaskExecutor
from tests.master_hub.gateway.lone_gateway import TOKEN, Running, running
from tests.providers.strict import PROVIDERS, SUMMED_UP, Server, serve
from tests.support.fleet import Fleet, hub
from tests.support.processes import ROOT
from tests.support.scripted_llm import API_KEY
from tests.support.serving import serving
from tests.support.waiting import Changes

EXTRA = {"temperature": 0.2, "max_tokens": 900}
"""What an owner may add; not every provider takes it."""

TOOL = '''"""A tool for tests."""

from __future__ import annotations

from typing import Literal, Optional, Union


def look(what: str, tags: list[str], how: Optional[Literal["far", "near"]] = None, more: Union[int, str] = 1,
         notes: Optional[dict[str, str]] = None) -> str:
    """Look at a thing.

    Args:
        what: the thing.
    """
    return f"a {what}"
'''

TASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "List files in home directory": ("shell_exec", {"command": {"type": "string"}}),
    "Download http://page.example/ and return the title": ("web_fetch", {"url": {"type": "string", "format": "uri"}}),
    "Create test file": (
        "write_file",
        {"path": {"type": "string"}, "content": {"type": ["string", "null"]}, "mode": {"const": "text"}},
    ),
}
"""The guide's example tasks, each with a tool and the schema of its parameters, as strange as schemas are."""


class OneTool:
    """A task's tools, in the place of a skill."""

    instructions = ""

    def __init__(self, name: str, properties: dict[str, Any]) -> None:
        parameters = {"type": "object", "properties": properties, "additionalProperties": False}
        self.specs: Sequence[ToolSpec] = (ToolSpec(name, f"The tool {name}.", parameters),)
        self.calls = 0

    async def execute(self, call: ToolCall) -> ToolResult:
        assert call.problem is None
        self.calls += 1
        return ToolResult(call.call_id, f"{call.name} worked")


@pytest.fixture(scope="module", params=PROVIDERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    yield from serve(PROVIDERS[request.param])


def settings_of(server: Server, *, known: bool = True, **more: Any) -> LLMSettings:
    """Return the settings for a provider that is known by its name, or not at all."""
    profile = {**({"like": server.provider.name} if known else {"like": "unknown"}), **more.pop("profile", {})}
    return LLMSettings(
        api_key=Secret(API_KEY),
        base_url=server.llm.url,
        model=server.provider.model if known else "model-of-a-name-unknown",
        timeout=20.0,
        retries=0,
        profile=profile,
        **more,
    )


async def run_task(settings: LLMSettings, description: str, tools: OneTool) -> AgentOutcome:
    async with create_llm_client(settings) as llm:
        agent = ToolAgent(llm, tools, "You are a worker.", Budget())
        return await agent.run(TaskRequest("task", description, (tools.specs[0].name,)))


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
async def test_the_guides_example_tasks_pass(server: Server, known: bool, streamed: bool) -> None:
    server.refused.clear()
    settings = settings_of(server, known=known, extra=EXTRA, profile={"stream_only": True} if streamed else {})

    for description, (name, properties) in TASKS.items():
        tools = OneTool(name, properties)
        outcome = await run_task(settings, description, tools)
        assert (outcome.state, outcome.output) == (TaskState.COMPLETED, "1 calls made"), outcome
        assert tools.calls == 1

    expected = 0 if known and server.provider.name in AT_ONCE else 12
    assert len(server.refused) <= expected, server.refused


AT_ONCE = {"ark", "deepseek", "moonshot", "gemini", "mistral", "ollama", "openrouter", "anthropic"}
"""Providers that refuse nothing that PiBot sends; the others refuse what depends on the model, and are asked again."""


@contextlib.contextmanager
def gateway(server: Server, **more: Any) -> Iterator[tuple[Running, LLMSettings]]:
    """Run a hub with only the gateway, and return a worker's settings for it."""
    for alone in running(settings_of(server), **more):
        address = f"http://127.0.0.1:{alone.port}/v1"
        yield alone, LLMSettings(Secret(TOKEN), address, server.provider.model, timeout=20.0, retries=0)


@contextlib.contextmanager
def fleet(tmp_path: Path, server: Server, *, through: bool, **more: Any) -> Iterator[Fleet]:
    """Run a hub and a worker with its real agents, in this process.

    Args:
        through: whether the worker asks the model through the hub.
    """
    skill = tmp_path / "skills" / "looking"
    skill.mkdir(parents=True)
    skill.joinpath("SKILL.md").write_text("---\nname: looking\ndescription: Look at things.\n---\nLook well.\n")
    skill.joinpath("tools.py").write_text(TOOL)
    settings = Settings(
        llm=settings_of(server, extra=EXTRA, **more),
        data_dir=tmp_path / "data",
        skills_dir=tmp_path / "skills",
        workspace_dir=tmp_path / "workspace",
        soul=ROOT / "soul.md",
        worker_soul=ROOT / "worker_soul.md",
        hot_celsius=1000.0,
        min_memory_mb=0,
        sandbox="off",
        api_key=Secret("the-key-of-the-fleet"),
    )
    loop = BackgroundLoop()
    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as threads:
        library = SkillLibrary(settings.skills_dir)
        agents: list[Any] = []
        executor = TaskExecutor("worker-1", lambda request: agents[0](request), loop)
        of_worker, of_hub = stack.enter_context(contextlib.ExitStack()), stack.enter_context(contextlib.ExitStack())
        worker_port = of_worker.enter_context(serving(create_worker_app(executor, library, settings)))
        workers = (WorkerAddress("worker-1", "127.0.0.1", worker_port),)
        service, port = of_hub.enter_context(hub(settings.replace(workers=workers)))
        llm = settings.llm
        if through:
            llm = LLMSettings(settings.api_key, f"http://127.0.0.1:{port}/v1", llm.model, timeout=20.0, retries=0)
        agents.append(create_task_agents(settings.replace(llm=llm), library))
        yield Fleet(port, server.llm, "the-key-of-the-fleet", Changes(), service=service)
        executor.stop(0.0)
        loop.run(agents[0].close()).result()
        # At once, since each server takes up to half a second to stop.
        list(threads.map(contextlib.ExitStack.close, (of_hub, of_worker)))
    loop.stop()


@pytest.mark.parametrize("through", [True, False], ids=["streamed-through-the-gateway", "direct"])
def test_a_job_of_three_steps_with_ten_tool_calls_passes(tmp_path: Path, server: Server, through: bool) -> None:
    with fleet(tmp_path, server, through=through, profile={"stream_only": through}) as running:
        job_id = running.ask("POST", "/task", {"description": "Do the three steps"}).json()["job_id"]
        result = running.result(job_id)
        job = running.job(job_id)

    assert result["success"], result
    assert [step["output"] for step in job["subtasks"]] == ["4 calls made", "3 calls made", "3 calls made"]
    assert result["output"] == SUMMED_UP


NAMES = tuple(PROVIDERS)
PAIRS = [(name, NAMES[(at + by) % len(NAMES)]) for at, name in enumerate(NAMES) for by in (1, 4)]


@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_a_task_goes_on_at_another_provider_in_the_middle(first: str, second: str) -> None:
    with contextlib.ExitStack() as stack:
        one, two = (stack.enter_context(contextlib.contextmanager(serve)(PROVIDERS[name])) for name in (first, second))
        one.down_after = 2
        with gateway(one, fallback=settings_of(two)) as (_, settings):
            tools = OneTool("shell_exec", {"command": {"type": "string"}})
            outcome = await run_task(settings, "Make 5 calls.", tools)

    assert (outcome.state, outcome.output) == (TaskState.COMPLETED, "5 calls made"), outcome
    assert tools.calls == 5
    assert one.answered == 2
    assert two.answered >= 2


def test_the_page_on_models_has_a_row_for_each_of_these_providers() -> None:
    page = (ROOT / "docs" / "models.md").read_text("utf-8")
    named = {name for row in page.splitlines() if row.startswith("| ") for name in re.findall(r"\(`(\w+)`\)", row)}
    assert set(PROVIDERS) <= named
    for name in named:
        assert for_endpoint("http://127.0.0.1/v1", "some-model", {"like": name}).name == name
