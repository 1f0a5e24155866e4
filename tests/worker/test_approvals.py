"""A tool call that waits for the owner's approval, on the worker: from the model's request to the tool's answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pibot.contracts import (
    AgentOutcome,
    ApprovalRequest,
    Budget,
    CommandResult,
    Decision,
    TaskRequest,
    TaskState,
    ToolCall,
    ToolContext,
    digest_of,
)
from pibot.errors import ApprovalConflict, ApprovalNotFound, ApprovalOver, ContractError
from pibot.rehearsal.conversation import unmarked
from pibot.tool_registry import Policy, SkillLibrary
from pibot.visible import shown_call
from pibot.worker.agents import TaskAgents
from pibot.worker.approvals import MAX_ARGUMENT_CHARS, WorkerApprovals
from tests.skills.support import SKILLS, FakeCommands
from tests.support.fakes import FakeLLM, asked, said

FINAL = '{"success": true, "data": {}, "output": "done"}'
YES = "exit code: 0\nran"


def shell(command: str, number: int = 1) -> ToolCall:
    return ToolCall(f"c{number}", "shell_exec", {"command": command}, "{}")


class Task:
    """A task whose shell commands need the owner's approval."""

    def __init__(self, tmp_path: Path, *answers: Any, seconds: float = 60.0, budget: float = 60.0) -> None:
        self.llm = FakeLLM(*answers)
        self.desk = WorkerApprovals(seconds, lambda: 1000.0)
        self.commands = FakeCommands(CommandResult(0, "ran"))
        self.came = asyncio.Event()
        self.desk.on_pending_call = lambda task_id: self.came.set()
        library = SkillLibrary(SKILLS, Policy(approve=frozenset({"shell_exec"})))
        agents = TaskAgents(
            library,
            self.commands,
            lambda: self.llm,
            "S",
            tmp_path / "w",
            Budget(max_seconds=budget),
            {},
            None,
            self.desk,
        )
        request = TaskRequest("t1", "x", ("shell_exec",))
        self.work = asyncio.ensure_future(agents(request).run(request))

    async def waiting(self) -> ApprovalRequest:
        await self.came.wait()
        self.came.clear()
        return self.desk.waiting("t1")[-1]

    async def told(self) -> list[str]:
        """Return the results that the model got for its tool calls."""
        await self.work
        return [unmarked(m.content) for m in self.llm.sent[-1] if m.role == "tool"]

    def outcome(self) -> AgentOutcome:
        return self.work.result()


@contextlib.asynccontextmanager
async def task(tmp_path: Path, *answers: Any, **more: Any) -> AsyncIterator[Task]:
    running = Task(tmp_path, *answers, **more)
    try:
        yield running
    finally:
        running.work.cancel()
        await asyncio.wait([running.work])


async def test_a_call_runs_only_once_it_is_approved(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("rm -r old")), said(FINAL)) as running:
        call = await running.waiting()
        assert (call.tool, call.arguments, call.asked_at) == ("shell_exec", {"command": "rm -r old"}, 1000.0)
        assert running.commands.asked == []
        running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        assert await running.told() == [YES]
        assert running.commands.asked[0]["argv"][-1] == "rm -r old"
        assert running.desk.waiting("t1") == ()


async def test_a_refused_call_is_an_error_with_its_reason_and_the_model_goes_on(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("rm -r old")), said(FINAL)) as running:
        call = await running.waiting()
        running.desk.decide("t1", call.approval_id, Decision(call.digest, False, "I need them"))
        assert await running.told() == ["ERROR: the owner refused this call: I need them"]
        assert (running.commands.asked, running.outcome().output) == ([], "done")


async def test_a_decision_about_another_call_runs_nothing(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("rm -r old")), said(FINAL)) as running:
        call = await running.waiting()
        other = Decision(digest_of("shell_exec", {"command": "ls"}), True)
        with pytest.raises(ApprovalConflict, match=call.digest):
            running.desk.decide("t1", call.approval_id, other)
        assert (running.desk.waiting("t1"), running.commands.asked) == ((call,), [])


@pytest.mark.parametrize("later", range(4))
async def test_a_task_cancelled_at_the_moment_of_approval_does_not_run_the_call(later: int) -> None:
    desk, ran = WorkerApprovals(60.0), asyncio.Event()
    came = asyncio.Event()
    desk.on_pending_call = lambda task_id: came.set()

    async def call() -> None:
        await desk.for_task("t1").ask("shell_exec", {"command": "ls"})
        await asyncio.sleep(0)  # as any tool does that waits for a command
        ran.set()

    working = asyncio.ensure_future(call())
    await came.wait()
    (waiting,) = desk.waiting("t1")
    desk.decide("t1", waiting.approval_id, Decision(waiting.digest, True))
    for _ in range(later):
        await asyncio.sleep(0)
    if not working.done():
        working.cancel()
        await asyncio.wait([working])
        assert working.cancelled()
        assert not ran.is_set()


async def test_each_call_needs_its_own_approval_even_an_identical_one(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls")), asked(shell("ls")), said(FINAL)) as running:
        first = await running.waiting()
        running.desk.decide("t1", first.approval_id, Decision(first.digest, True))
        second = await running.waiting()
        assert (second.digest, second.approval_id != first.approval_id) == (first.digest, True)
        assert len(running.commands.asked) == 1
        running.desk.decide("t1", second.approval_id, Decision(second.digest, False))
        assert await running.told() == [YES, "ERROR: the owner refused this call: no reason was given"]


async def test_a_call_that_nobody_decides_counts_as_refused(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls")), said(FINAL), seconds=0.01) as running:
        call = await running.waiting()
        (told,) = await running.told()
        assert told.startswith("ERROR: the owner refused this call: nobody decided within 0.01 seconds (PIBOT_APPR")
        with pytest.raises(ApprovalOver, match="does not wait any more"):
            running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        assert running.commands.asked == []


async def test_a_decision_may_arrive_twice_but_not_be_reversed(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls")), said(FINAL)) as running:
        call = await running.waiting()
        for _ in range(2):
            running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        await running.told()
        running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        with pytest.raises(ApprovalConflict, match="was approved before"):
            running.desk.decide("t1", call.approval_id, Decision(call.digest, False))
        with pytest.raises(ApprovalNotFound):
            running.desk.decide("t1", "7", Decision(call.digest, True))
        with pytest.raises(ApprovalNotFound):
            running.desk.decide("t2", call.approval_id, Decision(call.digest, True))


async def test_waiting_for_the_owner_does_not_count_against_the_tasks_time(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls")), asked(shell("ls")), said(FINAL), budget=0.1) as running:
        for _ in range(2):
            call = await running.waiting()
            done, _ = await asyncio.wait([running.work], timeout=0.2)  # twice its time
            assert not done
            running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        assert await running.told() == [YES, YES]
        assert running.outcome().state is TaskState.COMPLETED


async def test_after_the_wait_the_tasks_time_goes_on(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls")), budget=0.05) as running:
        call = await running.waiting()
        running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        await running.work  # the model never answers again
        assert running.outcome().state is TaskState.TIMEOUT


async def test_a_cancelled_task_stops_waiting_for_the_owner(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls"), shell("date", 2))) as running:
        call = await running.waiting()
        running.work.cancel()
        await asyncio.wait([running.work])
        assert running.desk.waiting("t1") == ()
        with pytest.raises(ApprovalOver):
            running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        assert running.commands.asked == []


async def test_a_malformed_call_goes_back_to_the_model_before_the_owner_is_asked(tmp_path: Path) -> None:
    async with task(tmp_path, asked(ToolCall("c1", "shell_exec", {"cmd": "ls"}, "{}")), said(FINAL)) as running:
        (told,) = await running.told()
        assert "there is no argument" in told
        assert running.desk.asked("t1") == 0


async def test_arguments_too_long_to_check_are_refused(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("x" * MAX_ARGUMENT_CHARS)), said(FINAL)) as running:
        (told,) = await running.told()
        assert "the owner can't check arguments" in told
        assert running.commands.asked == []


@pytest.mark.parametrize("value", [{"half \ud800": "x"}, float("nan")])
async def test_arguments_that_json_would_change_are_refused_at_once(value: Any) -> None:
    """The master would reject them, and the task would wait for a decision that nobody can make."""
    decision = await WorkerApprovals(0.01).for_task("t1").ask("send", {"it": value})
    assert not decision.approved
    assert "broken character or number" in decision.reason


async def test_a_tool_can_not_change_the_arguments_that_the_owner_sees(tmp_path: Path) -> None:
    async with task(tmp_path, asked(shell("ls")), said(FINAL)) as running:
        call = await running.waiting()
        call.arguments["command"] = "rm -r old"  # type: ignore[index]  # as a defect elsewhere might
        running.desk.decide("t1", call.approval_id, Decision(call.digest, True))
        await running.told()
        assert running.commands.asked[0]["argv"][-1] == "ls"


# --- which calls ---


def skill(folder: Path, metadata: str) -> None:
    (folder / "demo").mkdir(parents=True)
    (folder / "demo" / "SKILL.md").write_text(f"---\nname: demo\ndescription: x\n{metadata}---\n")
    (folder / "demo" / "tools.py").write_text(
        "def one() -> str:\n    'One.'\n    return '1'\n\ndef two() -> str:\n    'Two.'\n    return '2'\n"
    )


class Owner:
    """Answers at once."""

    def __init__(self, decision: Decision) -> None:
        self.asked: list[str] = []
        self._decision = decision

    async def ask(self, tool: str, arguments: Any) -> Decision:
        self.asked.append(tool)
        return self._decision


async def results(tmp_path: Path, policy: Policy, owner: Owner | None) -> list[str]:
    context = ToolContext("t1", tmp_path, FakeCommands(CommandResult(0, "")))
    box = SkillLibrary(tmp_path / "skills", policy).load(["demo"], context, owner)
    return [(await box.execute(ToolCall("c", name, {}))).content for name in ("one", "two")]


@pytest.mark.parametrize(
    ("metadata", "approve", "waits"),
    [
        ("", (), []),
        ("metadata:\n  approval: required\n", (), ["one", "two"]),
        ("", ("demo",), ["one", "two"]),
        ("", ("two", "other"), ["two"]),
    ],
)
async def test_a_skills_page_or_the_owner_says_which_calls_wait(
    tmp_path: Path, metadata: str, approve: tuple[str, ...], waits: list[str]
) -> None:
    skill(tmp_path / "skills", metadata)
    owner = Owner(Decision("", False, "no"))
    answers = await results(tmp_path, Policy(approve=frozenset(approve)), owner)
    assert owner.asked == waits
    assert [a.startswith("the owner refused") for a in answers] == ["one" in waits, "two" in waits]


async def test_without_an_owner_to_ask_a_call_that_needs_approval_is_refused(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "metadata:\n  approval: required\n")
    assert "nobody here to ask" in (await results(tmp_path, Policy(), None))[0]


async def test_an_approval_of_another_call_runs_nothing(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "metadata:\n  approval: required\n")
    one = Owner(Decision(digest_of("one", {}), True))
    assert await results(tmp_path, Policy(), one) == ["1", "two was not run: the owner approved another call"]


# --- the digest, and what is shown ---

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.text(max_size=200), st.dictionaries(st.text(), VALUES, max_size=4))
def test_a_calls_digest_survives_the_network(tool: str, arguments: dict[str, Any]) -> None:
    call = ApprovalRequest("1", tool, arguments, digest_of(tool, arguments), 1.0)
    sent = json.loads(json.dumps(call.to_json(), ensure_ascii=False).encode("utf-8", "surrogatepass"))
    assert ApprovalRequest.from_json(sent).digest == call.digest


@pytest.mark.parametrize(
    "change", [{"tool": "file_ops"}, {"arguments": {"command": "rm -r /"}}, {"digest": "0" * 64}, {"arguments": []}]
)
def test_a_call_with_the_digest_of_another_is_rejected(change: dict[str, Any]) -> None:
    call = ApprovalRequest("1", "shell_exec", {"command": "ls"}, digest_of("shell_exec", {"command": "ls"}), 1.0)
    assert ApprovalRequest.from_json(call.to_json()) == call
    with pytest.raises(ContractError):
        ApprovalRequest.from_json({**call.to_json(), **change})


def test_the_owner_sees_every_character_of_a_call() -> None:
    shown = shown_call({"command": "ls \u202e\u200b\x1b[2K\r\u00a0x\u3000", "n": 1, "two\nlines": "a\nb"})
    assert shown == (
        "command: ls \\u{202e}\\u{200b}\\u{1b}[2K\\u{d}\\u{a0}x\\u{3000}\nn: 1\ntwo\\nlines:\n    a\n    b"
    )
    assert shown_call({}) == "(no arguments)"
    assert shown_call({"text": "你好, привет"}) == "text: 你好, привет"


def test_a_value_cannot_pass_for_a_second_argument() -> None:
    assert shown_call({"a": "x\nb: y"}) != shown_call({"a": "x", "b": "y"})
    assert replace(Decision("d", True), approved=False).to_json() == {"digest": "d", "approved": False, "reason": ""}


# --- a worker says nothing that its master would not believe ---


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"command": json.loads("[" * 100 + "]" * 100)}, "nested more than"),
        ({"command": [1] * 2000}, "more than 1562 values"),
        ({"command": 10**40}, "more than 30 digits"),
    ],
)
async def test_a_call_that_the_master_would_not_believe_is_refused_here(arguments: dict[str, Any], why: str) -> None:
    decision = await WorkerApprovals(60.0).for_task("t").ask("shell_exec", arguments)
    assert (decision.approved, why in decision.reason) == (False, True)


async def test_a_task_asks_its_owner_for_no_more_than_a_page_can_show() -> None:
    approvals = WorkerApprovals(0.0)
    task = approvals.for_task("t")
    for _ in range(20):
        await task.ask("write_file", {"content": "x," * 24_500})  # a comma in a text is no value
    decision = await task.ask("write_file", {"content": "x," * 24_500})
    assert "too many calls" in decision.reason
    for _ in range(300):
        await approvals.for_task("u").ask("shell_exec", {})
    assert (approvals.asked("t"), approvals.asked("u")) == (20, 256)
