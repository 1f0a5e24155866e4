"""Exchanges over broken connections, the health poll, and workers that join and leave, against a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from pibot.contracts import ApprovalRequest, JsonObject, SubTask, TaskRequest, WorkerAddress, WorkerState, digest_of
from pibot.contracts.approvals import MAX_CALLS_AT_ONCE
from pibot.errors import ImpossibleAnswer, TaskNotFound, WorkerNotReached, WorkerRejected, WorkerUnreachable
from pibot.master_components.workers.client import ANSWER_TIMEOUT
from pibot.master_components.workers.exchange import ExchangeTerms, OnPending
from pibot.master_components.workers.guide import GuidePool
from pibot.master_components.workers.placement import MEGABYTE, FitnessLimits
from pibot.master_components.workers.pool import WorkerPool
from pibot.master_components.workers.record import FAILURES
from pibot.master_components.workers.requests import WorkerRequests
from pibot.settings import Settings
from tests.support.workers import closed_port, workers

DONE = (200, {"success": True, "task_id": "t", "worker_id": "worker-1", "status": "completed", "output": "done"})
RUNNING = (202, {"success": True, "task_id": "t", "status": "running"})
UNKNOWN = (404, {"success": False, "error": "no task 't'"})
HANG_UP = None

POST, GET, STATUS = "POST /task", "GET /task/t/result", "GET /status"


class Scripted:
    """A worker that answers each request with the next answer; None closes the connection instead.

    In an answer about the task ``t`` the id is the one that the task was sent with.

    Attributes:
        asked: the requests so far, as ``METHOD path``.
    """

    def __init__(self, *answers: tuple[int, dict[str, Any]] | None) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []
        self.address = WorkerAddress("worker-1", "127.0.0.1", 0)
        self._task_id = "t"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = [line for line in head.lower().split("\r\n") if line.startswith("content-length:")]
        if length:
            sent = json.loads(await reader.readexactly(int(length[0].partition(":")[2])) or b"{}")
            self._task_id = sent.get("task_id", self._task_id)
        self.asked.append(" ".join(head.split()[:2]))
        answer = self._answers.pop(0)
        if answer is not None:
            own_id = {"task_id": self._task_id} if answer[1].get("task_id") == "t" else {}
            body = json.dumps({**answer[1], **own_id}).encode()
            writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (answer[0], len(body)))
            writer.write(body)
        writer.close()


class Time:
    """A clock that advances only by sleeping."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@contextlib.asynccontextmanager
async def serving(worker: Scripted, time: Time | None = None) -> AsyncIterator[WorkerPool]:
    """Serve the worker's answers on a port, and return a pool of that worker."""
    time = time or Time()
    server = await asyncio.start_server(worker.serve, "127.0.0.1", 0)
    worker.address = WorkerAddress("worker-1", "127.0.0.1", server.sockets[0].getsockname()[1])
    pool = WorkerPool([worker.address], monotonic=time, clock=time, sleep=time.sleep, jitter=lambda: 0.0)
    try:
        yield pool
    finally:
        await pool.close()
        server.close()
        await server.wait_closed()


def terms(*, patience: float = 60.0, ask_first: bool = False, on_pending: OnPending | None = None) -> ExchangeTerms:
    return ExchangeTerms(
        TaskRequest("t", "d"), timeout=300, patience=patience, ask_first=ask_first, on_pending=on_pending
    )


async def run(pool: WorkerPool, *, patience: float = 60.0, ask_first: bool = False) -> str:
    return (await pool.run_on("worker-1", terms(patience=patience, ask_first=ask_first))).output


def uptime(seconds: float) -> tuple[int, dict[str, Any]]:
    return 200, {"worker_id": "worker-1", "uptime_seconds": seconds}


# --- lost connections ---


async def test_a_connection_lost_while_the_task_runs_costs_nothing_but_asking_again() -> None:
    worker, time = Scripted(HANG_UP, HANG_UP, RUNNING, HANG_UP, DONE), Time()
    async with serving(worker, time) as pool:
        assert await run(pool) == "done"
        assert worker.asked == [POST, GET, GET, GET, GET]
        assert time.slept[0] == 0.5  # aiohttp itself asks a GET once more, at once
        assert pool.statuses()[0].set_aside_until is None


async def test_a_worker_that_gives_no_sign_of_life_for_too_long_is_given_up() -> None:
    worker, time = Scripted(RUNNING, *[HANG_UP] * 30), Time()
    async with serving(worker, time) as pool:
        with pytest.raises(WorkerUnreachable):
            await run(pool, patience=20.0)
        assert 20.0 <= sum(time.slept) <= 25.0


async def test_a_worker_that_was_restarted_and_forgot_the_task_is_given_up_at_once() -> None:
    worker, time = Scripted(RUNNING, UNKNOWN), Time()
    async with serving(worker, time) as pool:
        with pytest.raises(WorkerUnreachable, match="forgot the task"):
            await run(pool)
        assert time.slept == []


async def test_a_task_that_never_arrived_is_sent_again() -> None:
    worker = Scripted(HANG_UP, UNKNOWN, uptime(3600.0), DONE)
    async with serving(worker) as pool:
        assert await run(pool) == "done"
        assert worker.asked == [POST, GET, STATUS, POST]


async def test_a_task_is_not_sent_again_to_a_worker_that_restarted_after_it_was_sent() -> None:
    worker = Scripted(HANG_UP, UNKNOWN, uptime(0.1))
    async with serving(worker) as pool:
        with pytest.raises(WorkerUnreachable, match="forgot the task"):
            await run(pool)


async def test_a_task_that_never_arrives_is_sent_three_times_at_most() -> None:
    worker = Scripted(*[HANG_UP, UNKNOWN, uptime(3600.0)] * 10)
    async with serving(worker) as pool:
        with pytest.raises(WorkerUnreachable):
            await run(pool)
        assert worker.asked.count(POST) == 3


async def test_a_worker_that_accepts_no_connection_is_given_up_at_once() -> None:
    time = Time()
    with closed_port() as port:
        pool = WorkerPool([WorkerAddress("worker-1", "127.0.0.1", port)], monotonic=time, sleep=time.sleep)
        with pytest.raises(WorkerNotReached):
            await run(pool)
        await pool.close()
    assert time.slept == []


async def test_a_resumed_exchange_asks_for_the_result_before_it_sends_the_task() -> None:
    worker = Scripted(DONE)
    async with serving(worker) as pool:
        assert await run(pool, ask_first=True) == "done"
        assert worker.asked == [GET]


async def test_a_resumed_exchange_sends_the_task_to_a_worker_that_does_not_know_it() -> None:
    worker = Scripted(UNKNOWN, RUNNING, DONE)
    async with serving(worker) as pool:
        assert await run(pool, ask_first=True) == "done"
        assert worker.asked == [GET, POST, GET]


async def test_a_task_of_the_guides_pool_takes_one_request() -> None:
    worker = Scripted(DONE)
    async with serving(worker) as pool:
        result = await GuidePool(pool).execute_task(SubTask("t", "d"))
        assert (result["success"], worker.asked) == (True, [POST])


# --- workers that lose several tasks ---


async def test_a_worker_that_forgets_several_tasks_is_set_aside_and_one_result_brings_it_back() -> None:
    worker, time = Scripted(*[RUNNING, UNKNOWN] * FAILURES, DONE), Time()
    async with serving(worker, time) as pool:
        for _ in range(FAILURES):
            with pytest.raises(WorkerUnreachable):
                await run(pool)
        (status,) = pool.statuses()
        assert status.set_aside_until == time.now + 30
        assert status.to_json()["set_aside_until"] == time.now + 30
        assert "set aside until 00:17:10 UTC (it forgot the task" in pool.why_none().detail
        with pytest.raises(asyncio.TimeoutError):
            await pool.acquire(0.0)
        time.now += 30
        assert await pool.acquire(0.0) == "worker-1"
        await run(pool)
        assert pool.statuses()[0].set_aside_until is None


@pytest.mark.parametrize(("status", "aside"), [(400, False), (401, True), (500, True)])
async def test_a_refusal_that_is_the_tasks_fault_does_not_count_against_the_worker(status: int, aside: bool) -> None:
    worker = Scripted(*[(status, {"success": False, "error": "no"})] * FAILURES)
    async with serving(worker) as pool:
        for _ in range(FAILURES):
            with pytest.raises(WorkerRejected):
                await run(pool)
        assert (pool.statuses()[0].set_aside_until is not None) is aside


# --- the health poll ---


async def test_the_poll_learns_what_the_worker_reports() -> None:
    body = {
        "uptime_seconds": 5.0,
        "version": "3.1",
        "skills": ["shell_exec"],
        "sandbox": "off",
        "current_task": None,
        "host": {"temperature_celsius": 81.5, "memory_available_bytes": 10**8, "load_1m": 0.5, "throttled": None},
    }
    worker = Scripted((200, body))
    async with serving(worker) as pool:
        await pool.poll()
        (status,) = pool.statuses()
        said = status.to_json()
        assert (said["version"], said["skills"], said["sandbox"]) == ("3.1", ["shell_exec"], "off")
        assert (said["resting"], said["temperature_celsius"]) == ("hot: 82 °C", 81.5)
        assert status.state is WorkerState.IDLE


async def test_a_worker_that_refuses_the_key_gets_no_task_until_it_accepts_it() -> None:
    worker = Scripted((401, {"success": False, "error": "the key is wrong"}), uptime(1))
    async with serving(worker) as pool:
        await pool.poll()
        assert "PIBOT_API_KEY must be the same" in (pool.statuses()[0].unfit or "")
        with pytest.raises(asyncio.TimeoutError):
            await pool.acquire(0.0)
        await pool.poll()
        assert pool.statuses()[0].unfit is None
        assert await pool.acquire(0.0) == "worker-1"


@pytest.mark.parametrize(("role", "suits"), [({}, True), ({"role": "master"}, False)], ids=["a worker", "a hub"])
async def test_a_health_without_a_name_is_a_workers_unless_a_hub_gave_it(role: dict[str, str], suits: bool) -> None:
    async with serving(Scripted(UNKNOWN, (200, {"status": "healthy", **role}))) as pool:
        await pool.poll()
        assert (pool.statuses()[0].unfit is None) is suits


async def test_the_poll_falls_back_to_the_health_of_a_worker_without_a_report() -> None:
    worker = Scripted(UNKNOWN, (200, {"status": "healthy", "worker_id": "worker-1", "current_task": "theirs"}))
    async with serving(worker) as pool:
        await pool.poll()
        assert worker.asked == [STATUS, "GET /health"]
        assert (pool.statuses()[0].state, pool.statuses()[0].current_task) == (WorkerState.BUSY, "theirs")


async def test_nonsense_in_a_report_counts_as_not_given() -> None:
    body = {"skills": "all", "version": 3, "host": {"temperature_celsius": "hot", "memory_available_bytes": None}}
    worker = Scripted((200, body), (200, {"host": []}))
    async with serving(worker) as pool:
        for _ in range(2):
            await pool.poll()
            said = pool.statuses()[0].to_json()
            assert (said["skills"], said["version"], said["temperature_celsius"]) == (None, None, None)
            assert said["resting"] is None


async def test_a_real_workers_report_is_understood() -> None:
    with workers(1, Settings.load({})) as running:
        pool = WorkerPool([running[0].address], limits=FitnessLimits(hot=1000.0, memory=0))
        await pool.poll()
        said = pool.statuses()[0].to_json()
        await pool.close()
    assert "shell_exec" in said["skills"]
    assert said["sandbox"] == "bwrap"
    assert said["memory_available_bytes"] > MEGABYTE


# --- joining and leaving ---


async def test_a_worker_that_joins_serves_a_waiting_task_and_one_that_leaves_is_removed_after_its_task() -> None:
    with workers(2) as running:
        pool = WorkerPool([running[0].address])
        held = await pool.acquire(1.0)
        waiting = asyncio.ensure_future(pool.acquire(5.0))
        await asyncio.sleep(0)
        pool.join(running[1].address, registered=True)
        assert await waiting == "worker-2"
        pool.leave("worker-2")
        assert [s.draining for s in pool.statuses()] == [False, True]
        pool.release("worker-2")
        assert [s.address.worker_id for s in pool.statuses()] == ["worker-1"]
        pool.release(held)
        with pytest.raises(WorkerUnreachable):
            pool.leave("worker-2")
        with pytest.raises((TaskNotFound, WorkerUnreachable)):
            await pool.fetch_result("worker-2", "t")
        await pool.close()


async def test_a_drained_worker_gets_no_task_until_it_is_undrained() -> None:
    pool = WorkerPool([WorkerAddress("worker-1", "127.0.0.1", 1)])
    pool.drain("worker-1")
    assert pool.why_none().detail == "worker-1 is being drained"
    waiting = asyncio.ensure_future(pool.acquire(5.0))
    await asyncio.sleep(0)
    assert not waiting.done()
    pool.drain("worker-1", False)
    assert await waiting == "worker-1"


async def test_a_worker_of_the_inventory_that_left_may_join_again() -> None:
    address = WorkerAddress("worker-1", "127.0.0.1", 1)
    pool = WorkerPool([address])
    pool.leave("worker-1")
    assert [s.draining for s in pool.statuses()] == [True]
    pool.join(address, registered=True)
    assert [(s.draining, s.registered) for s in pool.statuses()] == [(False, False)]


async def test_an_offline_worker_that_registers_again_is_used_at_once() -> None:
    with workers(1) as running:
        pool = WorkerPool([running[0].address])
        running[0].server.stop()
        await pool.poll()
        waiting = asyncio.ensure_future(pool.acquire(5.0))
        await asyncio.sleep(0)
        assert not waiting.done()
        running[0].start()
        pool.join(running[0].address, registered=True)
        assert await waiting == "worker-1"
        await pool.close()


class Timeouts:
    """An HTTP client that records the time limit of each request."""

    def __init__(self) -> None:
        self.given: list[float] = []

    async def request(
        self,
        address: WorkerAddress,
        method: str,
        path: str,
        body: JsonObject | None = None,
        *,
        wait: float = 0,
        timeout: float = ANSWER_TIMEOUT,
    ) -> tuple[int, JsonObject]:
        self.given.append(timeout)
        return 200, {}

    async def prove(self, address: WorkerAddress, join: str) -> bool:
        return False

    async def close(self) -> None:
        pass


async def test_cancelling_a_task_does_not_wait_long_for_a_silent_worker() -> None:
    time, http = Time(), Timeouts()
    pool = WorkerPool([WorkerAddress("worker-1", "127.0.0.1", 1)], http, monotonic=time)
    await pool.cancel("worker-1", "t")
    time.now += 20
    await pool.cancel("worker-1", "t")
    assert http.given == [60.0, 5.0]


@pytest.mark.parametrize("answers", [[(401, {"error": "no key"})], [UNKNOWN, (200, {"status": "healthy"})]])
async def test_a_worker_may_leave_during_its_health_poll(answers: list[Any]) -> None:
    class Leaving(Scripted):
        async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(self.asked) == len(answers) - 1:
                pool.queue.remove("worker-1")
            await super().serve(reader, writer)

    async with serving(Leaving(*answers)) as pool:
        await pool.poll()
        assert pool.statuses() == ()


# --- calls that wait for the owner ---

CALL = {
    "approval_id": "1",
    "tool": "shell_exec",
    "arguments": {"command": "ls"},
    "digest": digest_of("shell_exec", {"command": "ls"}),
    "asked_at": 5.0,
}


def waits(seconds: float, *calls: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    return 202, {**RUNNING[1], "approvals": list(calls), "approvals_asked": 1, "waited_seconds": seconds}


async def test_calls_that_need_approval_are_reported_and_known_ones_end_no_wait() -> None:
    worker = Scripted(waits(0.0, CALL), waits(20.0, CALL), waits(25.0), DONE)
    told: list[list[str]] = []

    async def on_pending(calls: Sequence[ApprovalRequest]) -> None:
        told.append([call.tool for call in calls])

    async with serving(worker) as pool:
        result = await pool.run_on("worker-1", terms(on_pending=on_pending))
    assert result.output == "done"
    assert told == [["shell_exec"], ["shell_exec"], []]
    assert worker.asked == [POST, *[f"{GET}?asked=1"] * 3]


@pytest.mark.parametrize(
    ("waited", "calls", "ends"),
    [
        ((0.0, 100.0, 200.0, 300.0), (CALL,), "completed"),
        ((0.0, 10.0, 20.0, 30.0), (CALL,), "timeout"),
        ((0.0, 9e8, 9e8, 9e8), (CALL,), "completed"),
        ((9e8, 9e8, 9e8), (), "timeout"),
    ],
    ids=["as long as it was", "shorter", "no longer than we saw", "with no call to decide"],
)
async def test_waiting_for_the_owner_does_not_count_against_the_timeout(
    waited: Sequence[float], calls: Sequence[dict[str, Any]], ends: str
) -> None:
    cancelled = (200, {**DONE[1], "status": "cancelled", "success": False})
    last = DONE if ends == "completed" else cancelled
    worker, time = Scripted(*(waits(seconds, *calls) for seconds in waited), last), Time()

    async def on_pending(calls: Sequence[ApprovalRequest]) -> None:
        time.now += 75.0 if waited[-1] > 1e6 and calls else 100.0  # of the step's 300

    async with serving(worker, time) as pool:
        result = await pool.run_on("worker-1", terms(on_pending=on_pending))
    assert result.state.value == ends
    assert (worker.asked[-1] == "POST /task/t/cancel") is (ends == "timeout")


# --- answers that can't be right ---


async def test_a_worker_that_answers_at_once_that_the_task_runs_is_asked_again_after_growing_pauses() -> None:
    worker, time = Scripted(*[RUNNING] * 12, DONE), Time()
    async with serving(worker, time) as pool:
        assert await run(pool) == "done"
    assert time.slept == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    "body",
    [
        {"task_id": "another", "status": "completed"},
        {"task_id": "t", "status": "completed", "usage": {"llm_calls": 10**20}},
        {"task_id": "t", "status": "completed", "started_at": 10**15},
        {"task_id": "t", "status": "completed", "output": "\ud83d"},
    ],
    ids=str,
)
async def test_a_result_that_can_not_be_right_is_a_lost_attempt_that_counts_against_the_worker(
    body: dict[str, Any],
) -> None:
    worker = Scripted(*[RUNNING, (200, body)] * FAILURES)
    async with serving(worker) as pool:
        for _ in range(FAILURES):
            with pytest.raises(ImpossibleAnswer):
                await run(pool)
        assert worker.asked == [POST, GET] * FAILURES
        assert pool.statuses()[0].set_aside_until is not None


async def test_more_calls_than_a_task_can_have_are_a_lost_attempt() -> None:
    async def on_pending(calls: Sequence[ApprovalRequest]) -> None:
        pytest.fail("no call of these is stored")

    calls = [{**CALL, "approval_id": str(number)} for number in range(MAX_CALLS_AT_ONCE + 1)]
    async with serving(Scripted(waits(0.0, *calls))) as pool:
        with pytest.raises(ImpossibleAnswer, match="33 calls wait for approval"):
            await pool.run_on("worker-1", terms(on_pending=on_pending))


async def test_one_workers_answer_that_meets_a_defect_ends_no_other_workers_poll(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = Scripted(uptime(5.0))
    async with serving(worker) as pool:
        pool.join(WorkerAddress("worker-0", "127.0.0.1", 1), registered=True)
        real = WorkerRequests.poll

        async def poll(requests: WorkerRequests, worker_id: str) -> None:
            if worker_id == "worker-0":
                raise RecursionError
            await real(requests, worker_id)

        monkeypatch.setattr(WorkerRequests, "poll", poll)
        await pool.poll()
        assert pool.statuses()[0].report is not None
