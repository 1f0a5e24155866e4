from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Iterator
from typing import Any, Callable

import pytest

from pibot.background import BackgroundLoop
from pibot.contracts import Agent, AgentOutcome, TaskRequest, TaskState, Usage
from pibot.errors import LLMConfigurationError, ShuttingDown, TaskConflict, TaskNotFound, WorkerBusy
from pibot.worker_task_executor import TaskExecutor
from tests.support.fakes import GatedAgent


class Instant:
    """Ends at once."""

    def __init__(self, outcome: AgentOutcome | Exception) -> None:
        self._outcome = outcome

    async def run(self, request: TaskRequest) -> AgentOutcome:
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


DONE = Instant(AgentOutcome(TaskState.COMPLETED, "done", {"n": 1}, None, Usage(1, 2, 3), 4))


class Clock:
    """A clock that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop()
    yield loop
    loop.stop()


def executor(loop: BackgroundLoop, agent: Agent | Callable[[TaskRequest], Agent] = DONE, **more: Any) -> TaskExecutor:
    create = agent if callable(agent) else lambda request: agent
    return TaskExecutor("worker-1", create, loop, **more)


def task(task_id: str = "t1", description: str = "do it", **more: Any) -> TaskRequest:
    return TaskRequest(task_id, description, **more)


class Gate:
    """A gated agent, controlled from the test's thread."""

    def __init__(self, loop: BackgroundLoop) -> None:
        self._loop = loop

        async def make() -> GatedAgent:
            return GatedAgent()

        self.agent = loop.run(make()).result()

    def started(self) -> None:
        self._loop.run(self._wait()).result(10)

    async def _wait(self) -> None:
        await self.agent.started.wait()

    def release(self) -> None:
        self._loop.call_soon(self.agent.release.set)


def test_a_task_runs_and_its_result_is_complete(loop: BackgroundLoop) -> None:
    runs = executor(loop, clock=Clock())
    runs.submit(task())
    result = runs.wait("t1", 10)
    assert result is not None
    assert result.to_json() == {
        "success": True,
        "task_id": "t1",
        "worker_id": "worker-1",
        "status": "completed",
        "data": {"n": 1, "output": "done"},
        "output": "done",
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "llm_calls": 3},
        "steps": 4,
        "started_at": 1000.0,
        "finished_at": 1000.0,
    }
    assert runs.current_task is None
    assert runs.ended()[TaskState.COMPLETED] == 1


def test_one_task_runs_at_a_time(loop: BackgroundLoop) -> None:
    gate = Gate(loop)
    runs = executor(loop, gate.agent)
    runs.submit(task("t1"))
    assert runs.current_task == "t1"
    assert runs.wait("t1", 0) is None
    with pytest.raises(WorkerBusy) as caught:
        runs.submit(task("t2"))
    assert caught.value.current_task == "t1"
    gate.release()
    assert runs.wait("t1", 10) is not None
    runs.submit(task("t2"))
    assert runs.wait("t2", 10) is not None


def test_the_same_task_sent_again_is_never_run_twice(loop: BackgroundLoop) -> None:
    made: list[str] = []
    gate = Gate(loop)

    def create(request: TaskRequest) -> Agent:
        made.append(request.task_id)
        return gate.agent

    runs = executor(loop, create)
    runs.submit(task())
    runs.submit(task())  # while it runs
    gate.release()
    first = runs.wait("t1", 10)
    runs.submit(task())  # when it has ended
    assert runs.wait("t1", 0) is first
    assert made == ["t1"]


def test_the_same_id_with_another_body_is_a_conflict(loop: BackgroundLoop) -> None:
    runs = executor(loop)
    runs.submit(task())
    for other in (task(description="else"), task(skills=("a",)), task(timeout=5.0)):
        with pytest.raises(TaskConflict, match="another body"):
            runs.submit(other)


def test_many_callers_sending_the_same_task_start_it_once(loop: BackgroundLoop) -> None:
    made: list[str] = []

    def create(request: TaskRequest) -> Agent:
        made.append(request.task_id)
        return DONE

    runs = executor(loop, create)
    barrier = threading.Barrier(8)

    def send(_: int) -> Any:
        barrier.wait(10)
        runs.submit(task())
        return runs.wait("t1", 10)

    with concurrent.futures.ThreadPoolExecutor(8) as callers:
        results = list(callers.map(send, range(8)))
    assert made == ["t1"]
    assert len({id(result) for result in results}) == 1


def test_a_task_nobody_sent_is_not_found(loop: BackgroundLoop) -> None:
    runs = executor(loop)
    with pytest.raises(TaskNotFound, match="worker-1"):
        runs.wait("t9", 0)
    with pytest.raises(TaskNotFound):
        runs.cancel("t9")


def test_a_cancelled_task_has_ended_when_cancel_returns(loop: BackgroundLoop) -> None:
    gate = Gate(loop)
    runs = executor(loop, gate.agent)
    runs.submit(task())
    gate.started()
    result = runs.cancel("t1")
    assert (result.state, result.error) == (TaskState.CANCELLED, "cancelled by request")
    assert gate.agent.cancelled
    assert runs.current_task is None


def test_a_task_cancelled_before_its_first_step_ends_as_cancelled(loop: BackgroundLoop) -> None:
    blocked = threading.Event()
    loop.call_soon(blocked.wait, 10)  # nothing in the loop starts before this
    runs = executor(loop, lambda request: GatedAgent())
    runs.submit(task())
    canceller = threading.Thread(target=runs.cancel, args=("t1",))
    canceller.start()
    blocked.set()
    canceller.join(10)
    result = runs.wait("t1", 0)
    assert result is not None
    assert result.state is TaskState.CANCELLED


def test_cancelling_an_ended_task_changes_nothing(loop: BackgroundLoop) -> None:
    runs = executor(loop)
    runs.submit(task())
    assert runs.wait("t1", 10) is runs.cancel("t1")


def test_an_agent_that_raises_is_a_failed_task_and_the_next_task_runs(
    loop: BackgroundLoop, caplog: pytest.LogCaptureFixture
) -> None:
    agents = iter([Instant(ZeroDivisionError("oh")), DONE])
    runs = executor(loop, lambda request: next(agents))
    runs.submit(task("t1"))
    broken = runs.wait("t1", 10)
    assert broken is not None
    assert (broken.state, broken.error) == (TaskState.FAILED, "a defect in the worker: ZeroDivisionError: oh")
    assert "Traceback" in caplog.text
    runs.submit(task("t2"))
    fine = runs.wait("t2", 10)
    assert fine is not None
    assert fine.success


def test_an_agent_that_cannot_be_made_is_a_failed_task_with_the_reason(loop: BackgroundLoop) -> None:
    def create(request: TaskRequest) -> Agent:
        raise LLMConfigurationError("set VOLC_API_KEY")

    runs = executor(loop, create)
    runs.submit(task())
    result = runs.wait("t1", 10)
    assert result is not None
    assert (result.state, result.error) == (TaskState.FAILED, "set VOLC_API_KEY")


def test_a_task_that_cannot_be_handed_to_the_loop_leaves_the_worker_free(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    runs = executor(loop)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="new thread"):
            runs.submit(task())
    assert runs.current_task is None
    runs.submit(task())
    result = runs.wait("t1", 10)
    assert result is not None
    assert result.state is TaskState.COMPLETED


def test_a_limited_number_of_results_is_kept(loop: BackgroundLoop) -> None:
    runs = executor(loop, results_kept=2)
    for number in range(4):
        runs.submit(task(f"t{number}"))
        assert runs.wait(f"t{number}", 10) is not None
    for number in (0, 1):
        with pytest.raises(TaskNotFound):
            runs.wait(f"t{number}", 0)
    assert runs.wait("t3", 0) is not None


def test_results_are_kept_for_a_limited_time(loop: BackgroundLoop) -> None:
    clock = Clock()
    runs = executor(loop, results_ttl=60.0, monotonic=clock)
    runs.submit(task())
    assert runs.wait("t1", 10) is not None
    clock.now += 60
    assert runs.wait("t1", 0) is not None
    clock.now += 1
    with pytest.raises(TaskNotFound):
        runs.wait("t1", 0)


def test_a_running_task_is_not_forgotten_however_old_it_is(loop: BackgroundLoop) -> None:
    clock = Clock()
    gate = Gate(loop)
    runs = executor(loop, gate.agent, results_ttl=60.0, results_kept=1, monotonic=clock)
    runs.submit(task())
    clock.now += 1e6
    assert runs.wait("t1", 0) is None
    gate.release()
    assert runs.wait("t1", 10) is not None


def test_a_stopping_worker_takes_no_task_and_lets_the_running_one_end(loop: BackgroundLoop) -> None:
    gate = Gate(loop)
    runs = executor(loop, gate.agent)
    runs.submit(task("t1"))
    stopper = threading.Thread(target=runs.stop, args=(10.0,))
    stopper.start()
    while True:  # until it is stopping
        try:
            runs.submit(task("t2"))
        except ShuttingDown:
            break
        except WorkerBusy:
            continue
    gate.release()
    stopper.join(10)
    result = runs.wait("t1", 0)
    assert result is not None
    assert result.success


def test_a_stopping_worker_cancels_a_task_after_its_grace_time_and_says_so(loop: BackgroundLoop) -> None:
    gate = Gate(loop)
    runs = executor(loop, gate.agent)
    runs.submit(task("t1"))
    gate.started()
    runs.stop(0.01)
    result = runs.wait("t1", 0)
    assert result is not None
    assert result.state is TaskState.CANCELLED
    assert "worker-1 was stopped" in (result.error or "")
    with pytest.raises(ShuttingDown):
        runs.submit(task("t2"))
