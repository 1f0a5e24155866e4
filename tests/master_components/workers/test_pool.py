"""The pool with real workers, and with servers that are none."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from pibot.contracts import TaskRequest, TaskState, WorkerAddress, WorkerState
from pibot.errors import NoWorkers, TaskNotFound, WorkerBusy, WorkerRejected, WorkerUnreachable
from pibot.master_components.workers.exchange import ExchangeTerms
from pibot.settings import Settings
from tests.master_components.workers.pools import pool_of, unreached
from tests.support.loops import until
from tests.support.workers import workers


def terms(task_id: str = "t", description: str = "d", skills: tuple[str, ...] = ()) -> ExchangeTerms:
    return ExchangeTerms(TaskRequest(task_id, description, skills), timeout=30)


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".lan"])
async def test_an_impossible_host_name_takes_only_its_own_worker_offline(host: str) -> None:
    with workers(1) as (good,):
        async with pool_of([WorkerAddress("worker-9", host), good.address]) as pool:
            await pool.poll()
            bad, well = pool.statuses()
            assert (bad.state, well.state) == (WorkerState.OFFLINE, WorkerState.IDLE)
            assert "is no address" in (bad.error or "")
            assert well.last_seen is not None
            assert (await pool.run_on(await pool.acquire(1.0), terms())).success


# --- servers that are no workers ---


@contextlib.asynccontextmanager
async def answering(*parts: bytes | None) -> AsyncIterator[WorkerAddress]:
    """Serve these bytes in answer to each request; None closes the connection."""

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


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ([None], "no answer"),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"], "no answer"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "no answer"),
        ([http(b"<html>")], "not JSON"),
        ([http(b"[1]")], "no JSON object"),
        ([http(b"{}")], "without a usable task result .*task_id"),
        ([http(b'{"success": true, "status": "great", "task_id": "t"}')], "without a usable task result .*'great'"),
        ([http(b"{}", b"302 Found\r\nLocation: http://127.0.0.1:1/")], "302"),
        ([http(b'{"error": "kaput"}', b"500 Oops")], "kaput"),
    ],
)
async def test_an_answer_that_is_no_workers_is_reported_as_what_it_is(parts: list[bytes | None], problem: str) -> None:
    async with answering(*parts) as address, pool_of([address]) as pool:
        with pytest.raises((WorkerUnreachable, WorkerRejected), match=problem):
            await pool.run_on("worker-9", terms())


# --- reserving ---


async def test_the_longest_idle_worker_is_taken_first() -> None:
    async with pool_of(unreached(1, 2, 3)) as pool:
        first = await pool.acquire(1.0)
        pool.release(first)
        assert [await pool.acquire(1.0) for _ in range(3)] == ["worker-2", "worker-3", "worker-1"]


async def test_an_avoided_worker_is_taken_only_if_there_are_no_others() -> None:
    async with pool_of(unreached(1, 2)) as pool:
        assert await pool.acquire(1.0, avoid=["worker-1"]) == "worker-2"
        waiting = asyncio.ensure_future(pool.acquire(5.0, avoid=["worker-1"]))
        await asyncio.sleep(0)
        assert not waiting.done()
        pool.release("worker-2")
        assert await waiting == "worker-2"
        assert await pool.acquire(1.0, avoid=["worker-1", "worker-2"]) == "worker-1"


async def test_waiting_tasks_are_served_in_order_and_a_cancelled_one_is_skipped() -> None:
    async with pool_of(unreached(1)) as pool:
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


async def test_acquiring_times_out_where_no_worker_becomes_free() -> None:
    async with pool_of(unreached(1)) as pool:
        await pool.acquire(1.0)
        with pytest.raises(asyncio.TimeoutError):
            await pool.acquire(0.01)


async def test_a_pool_without_workers_makes_no_task_wait() -> None:
    async with pool_of([]) as pool:
        with pytest.raises(NoWorkers):
            await pool.acquire(1.0)


# --- one task on one worker ---


async def test_a_wrong_key_is_reported_with_the_variable_to_set() -> None:
    with workers(1, Settings.load({"PIBOT_API_KEY": "right"})) as running:
        async with pool_of([running[0].address], "wrong") as pool:
            with pytest.raises(WorkerRejected, match="PIBOT_API_KEY must be the same"):
                await pool.run_on("worker-1", terms())


async def test_an_unknown_skill_is_reported_in_the_workers_own_words() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            with pytest.raises(WorkerRejected, match="telepathy"):
                await pool.run_on("worker-1", terms(skills=("telepathy",)))


async def test_a_result_can_be_fetched_later_by_its_id() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            call = asyncio.ensure_future(pool.run_on("worker-1", terms("job.a.1", "wait")))
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
            call = asyncio.ensure_future(pool.run_on("worker-1", terms("t", "wait")))
            await until(lambda: running[0].waiting == 1)
            await pool.cancel("worker-1", "t")
            assert (await call).state is TaskState.CANCELLED
            await pool.cancel("worker-1", "never-there")


async def test_a_worker_that_runs_a_task_refuses_another() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            call = asyncio.ensure_future(pool.run_on("worker-1", terms("t1", "wait")))
            await until(lambda: running[0].waiting == 1)
            with pytest.raises(WorkerBusy) as caught:
                await pool.run_on("worker-1", terms("t2"))
            assert caught.value.current_task == "t1"
            running[0].release()
            await call


async def test_a_worker_that_is_back_is_idle_again() -> None:
    with workers(1) as running:
        async with pool_of([running[0].address]) as pool:
            running[0].server.stop()
            assert await pool.check_health() == {"worker-1": False}
            running[0].start()
            assert await pool.check_health() == {"worker-1": True}
            assert pool.statuses()[0].state is WorkerState.IDLE
            assert pool.statuses()[0].error is None
