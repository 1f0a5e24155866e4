from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable
from typing import Callable

import pytest

from pibot.contracts import (
    MAX_DESCRIPTION_CHARS,
    AgentOutcome,
    SubTask,
    TaskRequest,
    TaskState,
    WorkerAddress,
    WorkerState,
)
from pibot.errors import (
    InvalidRequest,
    NoWorkers,
    SettingsError,
    TaskNotFound,
    WorkerBusy,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.master_components import WorkerPool, create_default_worker_pool
from pibot.master_components.workers.keys import WorkerKeys
from pibot.settings import Secret, Settings
from tests.support.workers import RunningWorker, closed_port, workers


@contextlib.asynccontextmanager
async def pool_of(addresses: Iterable[WorkerAddress], key: str | None = None) -> AsyncIterator[WorkerPool]:
    pool = WorkerPool(addresses, keys=WorkerKeys(None if key is None else Secret(key)))
    try:
        yield pool
    finally:
        await pool.close()


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".lan"])
async def test_a_name_that_no_host_can_have_takes_no_other_worker_out(host: str) -> None:
    with workers(1) as (good,):
        async with pool_of([WorkerAddress("worker-9", host), good.address]) as pool:
            await pool.look()
            bad, well = pool.statuses()
            assert (bad.state, well.state) == (WorkerState.OFFLINE, WorkerState.IDLE)
            assert "is no address" in (bad.error or "")
            assert well.last_seen is not None
            assert (await pool.execute_task(SubTask("t", "x", ())))["success"]


@contextlib.asynccontextmanager
async def answering(*parts: bytes | None) -> AsyncIterator[WorkerAddress]:
    """Something on a port that answers each request with these very bytes; None hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        for part in parts:
            if part is not None:
                writer.write(part)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield WorkerAddress("worker-9", "127.0.0.1", server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await server.wait_closed()


def http(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\nContent-Type: application/json\r\n\r\n%s" % (status, len(body), body)


async def until(condition: Callable[[], bool]) -> None:
    """Give the other parts their turn until something is so; the test's own time limit ends it otherwise."""
    while not condition():  # noqa: ASYNC110  # what is awaited happens in other threads
        await asyncio.sleep(0)


def task(task_id: str = "t1", description: str = "do it") -> SubTask:
    return SubTask(task_id=task_id, description=description, skills=[])


# --- what the guide does ---


async def test_health_is_asked_of_every_worker_and_a_dead_one_is_false() -> None:
    with workers(2) as running, closed_port() as port:
        addresses = [*(w.address for w in running), WorkerAddress("worker-3", "127.0.0.1", port)]
        async with pool_of(addresses) as pool:
            assert await pool.check_all_workers_health() == {"worker-1": True, "worker-2": True, "worker-3": False}
            summary = pool.get_status_summary()
            assert (summary["total"], summary["idle"], summary["busy"], summary["offline"]) == (3, 2, 0, 1)
            assert [w["status"] for w in summary["workers"]] == ["idle", "idle", "offline"]
            assert str(port) in summary["workers"][2]["error"]


async def test_a_new_pools_summary_has_the_guides_fields_and_presumes_idle() -> None:
    async with pool_of([WorkerAddress("worker-1", "192.168.10.66")]) as pool:
        summary = pool.get_status_summary()
        assert {k: v for k, v in summary.items() if k != "workers"} == {"total": 1, "idle": 1, "busy": 0, "offline": 0}
        worker = summary["workers"][0]
        assert (worker["id"], worker["ip"], worker["status"], worker["current_task"]) == (
            "worker-1",
            "192.168.10.66",
            "idle",
            None,
        )


async def test_the_longest_description_gets_there_in_every_script() -> None:
    with workers(1) as (worker,):
        async with pool_of([worker.address]) as pool:
            result = await pool.execute_task(task("t", "\N{GRINNING FACE}" * MAX_DESCRIPTION_CHARS))
            assert result["success"], result
            assert pool.statuses()[0].error is None


async def test_a_task_is_executed_and_its_result_keeps_the_callers_id() -> None:
    with workers(1) as running:
        async with pool_of(w.address for w in running) as pool:
            result = await pool.execute_task(task("parallel_0", "hello"))
            assert (result["success"], result["task_id"], result["worker_id"]) == (True, "parallel_0", "worker-1")
            assert result["data"]["output"] == "hello"


async def test_each_call_is_an_execution_of_its_own() -> None:
    with workers(1) as running:
        async with pool_of(w.address for w in running) as pool:
            await pool.execute_task(task("again"))
            await pool.execute_task(task("again"))
        assert len(running[0].requests) == 2


async def test_tasks_are_spread_over_the_workers_and_run_at_the_same_time() -> None:
    with workers(3) as running:
        async with pool_of(w.address for w in running) as pool:
            calls = [asyncio.ensure_future(pool.execute_task(task(f"t{n}", "wait"))) for n in range(3)]
            await until(lambda: all(w.waiting == 1 for w in running))  # all three run now
            assert pool.get_status_summary()["busy"] == 3
            for worker in running:
                worker.release()
            results = await asyncio.gather(*calls)
            assert {r["worker_id"] for r in results} == {"worker-1", "worker-2", "worker-3"}
            assert pool.get_status_summary()["idle"] == 3


async def test_a_caller_waits_for_a_worker_to_come_free() -> None:
    with workers(1) as running:
        async with pool_of(w.address for w in running) as pool:
            first = asyncio.ensure_future(pool.execute_task(task("t1", "wait")))
            await until(lambda: running[0].waiting == 1)
            second = asyncio.ensure_future(pool.execute_task(task("t2", "next")))
            running[0].release()
            assert (await first)["success"]
            assert (await second)["output"] == "next"


async def test_a_failed_task_is_a_result_and_is_not_tried_elsewhere() -> None:
    def fail(request: TaskRequest) -> AgentOutcome:
        return AgentOutcome(TaskState.FAILED, error="no such file")

    with workers(2, behaviour=fail) as running:
        async with pool_of(w.address for w in running) as pool:
            result = await pool.execute_task(task())
            assert (result["success"], result["status"], result["error"]) == (False, "failed", "no such file")
        assert sum(len(w.requests) for w in running) == 1


# --- what goes wrong ---


async def test_a_pool_without_workers_fails_at_once_and_says_what_to_set() -> None:
    async with pool_of([]) as pool:
        result = await pool.execute_task(task())
        assert result["success"] is False
        assert "WORKER_1_IP" in result["error"]
        with pytest.raises(NoWorkers):
            await pool.acquire(1.0)


async def test_a_dead_worker_is_replaced_by_another() -> None:
    with workers(1) as running, closed_port() as port:
        async with pool_of([WorkerAddress("worker-0", "127.0.0.1", port), running[0].address]) as pool:
            result = await pool.execute_task(task())
            assert (result["success"], result["worker_id"]) == (True, "worker-1")
            assert [s.state for s in pool.statuses()] == [WorkerState.OFFLINE, WorkerState.IDLE]


async def test_when_no_worker_answers_the_result_says_so_for_each() -> None:
    with closed_port() as port:
        async with pool_of([WorkerAddress("worker-1", "127.0.0.1", port)]) as pool:
            result = await pool.execute_task(task(), timeout=0.05)
            assert (result["success"], result["worker_id"]) == (False, None)
            assert f"worker-1: no answer from http://127.0.0.1:{port}" in result["error"]
            assert "no worker was free within 0.05 s" in result["error"]


async def test_a_worker_that_reboots_during_a_task_is_replaced() -> None:
    with workers(2) as running:
        async with pool_of(w.address for w in running) as pool:
            call = asyncio.ensure_future(pool.execute_task(task("t1", "wait")))
            await until(lambda: sum(w.waiting for w in running) == 1)
            died, other = sorted(running, key=lambda w: -w.waiting)
            forgotten = died.requests[0].task_id
            await asyncio.get_running_loop().run_in_executor(None, _reboot, died)
            other.release()
            result = await call
            # A worker that stops says so: the task was cancelled there, which is a result of its own.
            assert result["worker_id"] in ("worker-1", "worker-2")
            assert result["status"] in ("completed", "cancelled")
            with pytest.raises(TaskNotFound):
                await pool.fetch_result(died.address.worker_id, forgotten)


def _reboot(worker: RunningWorker) -> None:
    worker.stop()
    worker.start()


async def test_a_worker_busy_with_somebody_elses_task_is_waited_for_and_is_no_attempt() -> None:
    with workers(1) as running:
        address = running[0].address
        async with pool_of([address]) as theirs, pool_of([address]) as ours:
            foreign = asyncio.ensure_future(theirs.execute_task(task("foreign", "wait")))
            await until(lambda: running[0].waiting == 1)
            mine = asyncio.ensure_future(ours.execute_task(task("mine")))
            await until(lambda: ours.statuses()[0].state is WorkerState.BUSY)
            running[0].release()
            assert (await foreign)["success"]
            assert (await mine)["success"]


async def test_a_task_that_outlasts_the_callers_timeout_is_cancelled_on_its_worker() -> None:
    with workers(1) as running:
        async with pool_of(w.address for w in running) as pool:
            result = await pool.execute_task(task("t1", "wait"), timeout=0.05)
            assert (result["success"], result["status"]) == (False, "timeout")
            assert running[0].cancelled == 1


async def test_a_wrong_key_is_said_with_the_variable_to_set() -> None:
    with workers(1, Settings.load({"PIBOT_API_KEY": "right"})) as running:
        async with pool_of([running[0].address], "wrong") as pool:
            with pytest.raises(WorkerRejected, match="PIBOT_API_KEY must be the same"):
                await pool.run_on("worker-1", TaskRequest("t", "d"), timeout=5)
        async with pool_of([running[0].address], "right") as pool:
            assert (await pool.execute_task(task()))["success"]


async def test_an_unknown_skill_is_the_workers_own_sentence() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            with pytest.raises(WorkerRejected, match="telepathy"):
                await pool.run_on("worker-1", TaskRequest("t", "d", ("telepathy",)), timeout=5)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([None], "no answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], "no answer"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "no answer"),
        ([http(b"<html>")], "without JSON"),
        ([http(b"[1]")], "no JSON object"),
        ([http(b"{}")], "no task's result"),
        ([http(b'{"success": true, "status": "great", "task_id": "t"}')], "agreed form"),
        ([http(b"{}", b"302 Found\r\nLocation: http://127.0.0.1:1/")], "302"),
        ([http(b'{"error": "kaput"}', b"500 Oops")], "kaput"),
    ],
)
async def test_something_that_is_no_worker_is_named_and_breaks_nothing(parts: list[bytes | None], problem: str) -> None:
    async with answering(*parts) as address, pool_of([address]) as pool:
        with pytest.raises((WorkerUnreachable, WorkerRejected), match=problem):
            await pool.run_on("worker-9", TaskRequest("t", "d"), timeout=5)


@pytest.mark.parametrize(
    ("subtask", "field"),
    [
        (SubTask("../x", "d"), "task_id"),
        (SubTask("x", ""), "description"),
        (SubTask("x", "d", ["NO"]), "skills"),
        (SubTask("x", "d", timeout=-1), "timeout"),
    ],
)
async def test_a_subtask_that_does_not_fit_is_refused_by_the_name_of_its_field(subtask: SubTask, field: str) -> None:
    async with pool_of([WorkerAddress("worker-1", "127.0.0.1", 1)]) as pool:
        with pytest.raises(InvalidRequest) as caught:
            await pool.execute_task(subtask)
        assert caught.value.field == field


# --- reserving ---


async def test_the_longest_idle_worker_is_taken_first() -> None:
    async with pool_of(WorkerAddress(f"worker-{n}", "127.0.0.1", 1) for n in (1, 2, 3)) as pool:
        first = await pool.acquire(1.0)
        pool.release(first)
        assert [await pool.acquire(1.0) for _ in range(3)] == ["worker-2", "worker-3", "worker-1"]


async def test_an_avoided_worker_is_taken_only_if_there_are_no_others() -> None:
    async with pool_of(WorkerAddress(f"worker-{n}", "127.0.0.1", 1) for n in (1, 2)) as pool:
        assert await pool.acquire(1.0, avoid=["worker-1"]) == "worker-2"
        waiting = asyncio.ensure_future(pool.acquire(5.0, avoid=["worker-1"]))
        await asyncio.sleep(0)
        assert not waiting.done()
        pool.release("worker-2")
        assert await waiting == "worker-2"
        assert await pool.acquire(1.0, avoid=["worker-1", "worker-2"]) == "worker-1"


async def test_who_waits_is_served_in_the_order_of_coming_and_who_gave_up_is_passed_over() -> None:
    async with pool_of([WorkerAddress("worker-1", "127.0.0.1", 1)]) as pool:
        held = await pool.acquire(1.0)
        waiting = [asyncio.ensure_future(pool.acquire(5.0)) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting[0]
        pool.release(held)
        assert await waiting[1] == "worker-1"
        assert not waiting[2].done()
        pool.release("worker-1")
        assert await waiting[2] == "worker-1"


async def test_nobody_free_in_time_is_a_timeout() -> None:
    async with pool_of([WorkerAddress("worker-1", "127.0.0.1", 1)]) as pool:
        await pool.acquire(1.0)
        with pytest.raises(asyncio.TimeoutError):
            await pool.acquire(0.01)


# --- what the dispatcher uses ---


async def test_a_result_can_be_fetched_later_by_its_id() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            call = asyncio.ensure_future(pool.run_on("worker-1", TaskRequest("job.a.1", "wait"), timeout=30))
            await until(lambda: running[0].waiting == 1)
            assert await pool.fetch_result("worker-1", "job.a.1") is None
            running[0].release()
            result = await call
            assert await pool.fetch_result("worker-1", "job.a.1") == result
            with pytest.raises(TaskNotFound, match="worker-1"):
                await pool.fetch_result("worker-1", "job.b.1")


async def test_cancelling_reaches_the_worker_and_an_unknown_task_counts_as_ended() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            call = asyncio.ensure_future(pool.run_on("worker-1", TaskRequest("t", "wait"), timeout=30))
            await until(lambda: running[0].waiting == 1)
            await pool.cancel("worker-1", "t")
            assert (await call).state is TaskState.CANCELLED
            await pool.cancel("worker-1", "never-there")


async def test_a_busy_worker_is_busy_for_run_on() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            call = asyncio.ensure_future(pool.run_on("worker-1", TaskRequest("t1", "wait"), timeout=30))
            await until(lambda: running[0].waiting == 1)
            with pytest.raises(WorkerBusy) as caught:
                await pool.run_on("worker-1", TaskRequest("t2", "d"), timeout=5)
            assert caught.value.current_task == "t1"
            running[0].release()
            await call


async def test_a_worker_that_came_back_is_idle_again() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            running[0].server.stop()
            assert await pool.check_all_workers_health() == {"worker-1": False}
            running[0].start()
            assert await pool.check_all_workers_health() == {"worker-1": True}
            assert pool.statuses()[0].state is WorkerState.IDLE
            assert pool.statuses()[0].error is None


# --- made from the environment ---


async def test_the_default_pool_is_made_of_the_guides_variables() -> None:
    pool = create_default_worker_pool({"WORKER_1_IP": "192.168.10.66", "WORKER_2_IP": "192.168.10.67"})
    assert [w["ip"] for w in pool.get_status_summary()["workers"]] == ["192.168.10.66", "192.168.10.67"]
    with pytest.raises(SettingsError, match="WORKER_1_PORT"):
        create_default_worker_pool({"WORKER_1_IP": "x", "WORKER_1_PORT": "y"})


async def test_the_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with closed_port() as port:
        async with pool_of([WorkerAddress("worker-1", "127.0.0.1", port)], "hunter2") as pool:
            await pool.execute_task(task(), timeout=0.02)
    assert "worker_offline" in caplog.text
    assert "hunter2" not in caplog.text
