"""The pool as the guide's scripts use it, with real workers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterable

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
from pibot.errors import InvalidRequest, SettingsError, TaskNotFound
from pibot.master_components import WorkerPool as GuidePool
from pibot.master_components import create_default_worker_pool
from pibot.master_components.workers.pool import WorkerPool
from pibot.settings import Settings
from tests.master_components.workers.pools import pool_of, unreached
from tests.support.loops import until
from tests.support.workers import RunningWorker, closed_port, workers

Pools = tuple[GuidePool, WorkerPool]


@contextlib.asynccontextmanager
async def guide_pool(addresses: Iterable[WorkerAddress], key: str | None = None) -> AsyncIterator[Pools]:
    """Create the guide's pool, and return it with the pool beneath it."""
    async with pool_of(addresses, key) as pool:
        yield GuidePool(pool), pool


def task(task_id: str = "t1", description: str = "hello") -> SubTask:
    return SubTask(task_id=task_id, description=description, skills=[])


# --- what the guide does ---


async def test_the_health_check_asks_every_worker_and_reports_a_dead_one_as_false() -> None:
    with workers(2) as running, closed_port() as port:
        addresses = [*(w.address for w in running), WorkerAddress("worker-3", "127.0.0.1", port)]
        async with guide_pool(addresses) as (guide, _):
            assert await guide.check_all_workers_health() == {"worker-1": True, "worker-2": True, "worker-3": False}
            summary = guide.get_status_summary()
            assert (summary["total"], summary["idle"], summary["busy"], summary["offline"]) == (3, 2, 0, 1)
            assert [w["status"] for w in summary["workers"]] == ["idle", "idle", "offline"]
            assert str(port) in summary["workers"][2]["error"]


async def test_a_new_pools_summary_has_the_guides_fields_and_presumes_its_workers_idle() -> None:
    async with guide_pool([WorkerAddress("worker-1", "192.168.10.66")]) as (guide, _):
        summary = guide.get_status_summary()
        assert {k: v for k, v in summary.items() if k != "workers"} == {"total": 1, "idle": 1, "busy": 0, "offline": 0}
        worker = summary["workers"][0]
        assert (worker["id"], worker["ip"], worker["status"], worker["current_task"]) == (
            "worker-1",
            "192.168.10.66",
            "idle",
            None,
        )


async def test_the_longest_description_arrives_in_every_script() -> None:
    with workers(1) as (worker,):
        async with guide_pool([worker.address]) as (guide, pool):
            result = await guide.execute_task(task("t", "\N{GRINNING FACE}" * MAX_DESCRIPTION_CHARS))
            assert result["success"], result
            assert pool.statuses()[0].error is None


async def test_a_task_runs_and_its_result_keeps_the_callers_id() -> None:
    with workers(1) as running:
        async with guide_pool(w.address for w in running) as (guide, _):
            result = await guide.execute_task(task("parallel_0", "hello"))
            assert (result["success"], result["task_id"], result["worker_id"]) == (True, "parallel_0", "worker-1")
            assert result["data"]["output"] == "hello"


async def test_each_call_is_an_execution_of_its_own() -> None:
    with workers(1) as running:
        async with guide_pool(w.address for w in running) as (guide, _):
            await guide.execute_task(task("again"))
            await guide.execute_task(task("again"))
        assert len(running[0].requests) == 2


async def test_tasks_are_spread_over_the_workers_and_run_at_the_same_time() -> None:
    with workers(3) as running:
        async with guide_pool(w.address for w in running) as (guide, _):
            calls = [asyncio.ensure_future(guide.execute_task(task(f"t{n}", "wait"))) for n in range(3)]
            await until(lambda: all(w.waiting == 1 for w in running))  # all three run now
            assert guide.get_status_summary()["busy"] == 3
            for worker in running:
                worker.release()
            results = await asyncio.gather(*calls)
            assert {r["worker_id"] for r in results} == {"worker-1", "worker-2", "worker-3"}
            assert guide.get_status_summary()["idle"] == 3


async def test_a_caller_waits_for_a_worker_to_become_free() -> None:
    with workers(1) as running:
        async with guide_pool(w.address for w in running) as (guide, _):
            first = asyncio.ensure_future(guide.execute_task(task("t1", "wait")))
            await until(lambda: running[0].waiting == 1)
            second = asyncio.ensure_future(guide.execute_task(task("t2", "next")))
            running[0].release()
            assert (await first)["success"]
            assert (await second)["output"] == "next"


async def test_a_failed_task_is_a_result_and_is_not_tried_on_another_worker() -> None:
    def fail(request: TaskRequest) -> AgentOutcome:
        return AgentOutcome(TaskState.FAILED, error="no such file")

    with workers(2, behaviour=fail) as running:
        async with guide_pool(w.address for w in running) as (guide, _):
            result = await guide.execute_task(task())
            assert (result["success"], result["status"], result["error"]) == (False, "failed", "no such file")
        assert sum(len(w.requests) for w in running) == 1


# --- what goes wrong ---


async def test_a_pool_without_workers_fails_at_once_and_says_what_to_set() -> None:
    async with guide_pool([]) as (guide, _):
        result = await guide.execute_task(task())
        assert result["success"] is False
        assert "WORKER_1_IP" in result["error"]


async def test_a_dead_worker_is_replaced_by_another() -> None:
    with workers(1) as running, closed_port() as port:
        addresses = [WorkerAddress("worker-0", "127.0.0.1", port), running[0].address]
        async with guide_pool(addresses) as (guide, pool):
            result = await guide.execute_task(task())
            assert (result["success"], result["worker_id"]) == (True, "worker-1")
            assert [s.state for s in pool.statuses()] == [WorkerState.OFFLINE, WorkerState.IDLE]


async def test_a_result_without_a_worker_names_each_workers_problem() -> None:
    with closed_port() as port:
        async with guide_pool([WorkerAddress("worker-1", "127.0.0.1", port)]) as (guide, _):
            result = await guide.execute_task(task(), timeout=0.05)
            assert (result["success"], result["worker_id"]) == (False, None)
            assert f"worker-1: no answer from http://127.0.0.1:{port}" in result["error"]
            assert "no worker was free within 0.05 s" in result["error"]


async def test_a_worker_that_reboots_during_a_task_is_replaced() -> None:
    with workers(2) as running:
        async with guide_pool(w.address for w in running) as (guide, pool):
            call = asyncio.ensure_future(guide.execute_task(task("t1", "wait")))
            await until(lambda: sum(w.waiting for w in running) == 1)
            died, other = sorted(running, key=lambda w: -w.waiting)
            forgotten = died.requests[0].task_id
            await asyncio.get_running_loop().run_in_executor(None, _reboot, died)
            other.release()
            result = await call
            # A worker that is stopped in order reports its task as cancelled, which is a result of its own.
            assert result["worker_id"] in ("worker-1", "worker-2")
            assert result["status"] in ("completed", "cancelled")
            with pytest.raises(TaskNotFound):
                await pool.fetch_result(died.address.worker_id, forgotten)


def _reboot(worker: RunningWorker) -> None:
    worker.stop()
    worker.start()


async def test_a_worker_busy_for_another_master_is_waited_for_and_does_not_count_as_tried() -> None:
    with workers(1) as running:
        address = running[0].address
        async with guide_pool([address]) as (theirs, _), guide_pool([address]) as (ours, our_pool):
            foreign = asyncio.ensure_future(theirs.execute_task(task("foreign", "wait")))
            await until(lambda: running[0].waiting == 1)
            mine = asyncio.ensure_future(ours.execute_task(task("mine")))
            await until(lambda: our_pool.statuses()[0].state is WorkerState.BUSY)
            running[0].release()
            assert (await foreign)["success"]
            assert (await mine)["success"]


async def test_a_task_that_outlasts_the_callers_timeout_is_cancelled_on_its_worker() -> None:
    with workers(1) as running:
        async with guide_pool(w.address for w in running) as (guide, _):
            result = await guide.execute_task(task("t1", "wait"), timeout=0.05)
            assert (result["success"], result["status"]) == (False, "timeout")
            assert running[0].cancelled == 1


async def test_a_worker_with_the_same_key_runs_the_task() -> None:
    with workers(1, Settings.load({"PIBOT_API_KEY": "right"})) as running:
        async with guide_pool([running[0].address], "right") as (guide, _):
            assert (await guide.execute_task(task()))["success"]


@pytest.mark.parametrize(
    ("subtask", "field"),
    [
        (SubTask("../x", "d"), "task_id"),
        (SubTask("x", ""), "description"),
        (SubTask("x", "d", ["NO"]), "skills"),
        (SubTask("x", "d", timeout=-1), "timeout"),
    ],
)
async def test_an_invalid_subtask_is_refused_with_the_name_of_its_field(subtask: SubTask, field: str) -> None:
    async with guide_pool(unreached(1)) as (guide, _):
        with pytest.raises(InvalidRequest) as caught:
            await guide.execute_task(subtask)
        assert caught.value.field == field


async def test_the_default_pool_is_made_of_the_guides_variables() -> None:
    pool = create_default_worker_pool({"WORKER_1_IP": "192.168.10.66", "WORKER_2_IP": "192.168.10.67"})
    assert [w["ip"] for w in pool.get_status_summary()["workers"]] == ["192.168.10.66", "192.168.10.67"]
    with pytest.raises(SettingsError, match="WORKER_1_PORT"):
        create_default_worker_pool({"WORKER_1_IP": "x", "WORKER_1_PORT": "y"})


async def test_no_log_holds_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with closed_port() as port:
        async with guide_pool([WorkerAddress("worker-1", "127.0.0.1", port)], "hunter2") as (guide, _):
            await guide.execute_task(task(), timeout=0.02)
    assert "worker_offline" in caplog.text
    assert "hunter2" not in caplog.text
