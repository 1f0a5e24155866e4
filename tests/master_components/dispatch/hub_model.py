"""A hub in memory, without HTTP and threads, and the promises that its dispatcher must keep."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pibot.contracts import JsonObject, SubTask, TaskComplexity, TaskPlan, TaskResult, TaskState, Usage
from pibot.errors import LLMUnavailable
from pibot.master_components.dispatch.dispatcher import Dispatcher
from pibot.master_components.dispatch.timing import LEASE_SECONDS, DispatchTiming
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, StepRecord, Submission
from pibot.master_components.store.states import (
    ENDED_JOBS,
    ENDED_STEPS,
    JOB_TRANSITIONS,
    JobState,
    StepState,
)
from pibot.master_components.workers.placement import best
from pibot.master_components.workers.pool import WorkerPool
from pibot.master_components.workers.queue import QueueKey, Waiter
from pibot.master_components.workers.requests import CHECK_TIMEOUT
from tests.support.clocks import FakeClock
from tests.support.planners import FakePlanner, Further
from tests.support.simulated_workers import Link, SimulatedNetwork, SimulatedWorker
from tests.support.virtual_loop import VirtualLoop

MAX_ATTEMPTS = 3
"""The promised number, independent of the code's own constant."""

REPLANS = 2
"""How often a plan may be changed."""

POLL_EVERY = 10.0
"""Seconds between two health polls."""

A_LITTLE = 0.01
"""Seconds by which a timer may be late."""


class SlowPlanner(FakePlanner):
    """A planner that takes a while for some jobs and fails for others.

    Attributes:
        plans: by the jobs' descriptions; None for a job that can't be planned.
        seconds: how long each plan takes, by the jobs' descriptions.
        says: what is said after a failure, by the jobs' descriptions: further steps, that nothing helps, nothing that
            can be used, or no answer at all.
        lacking: the descriptions of the jobs whose answers always lack something.
    """

    def __init__(self) -> None:
        super().__init__(LLMUnavailable("no model"))
        self.plans: dict[str, TaskPlan | None] = {}
        self.seconds: dict[str, float] = {}
        self.says: dict[str, Further] = {}
        self.lacking: set[str] = set()

    async def replan(
        self, description: str, results: Sequence[tuple[SubTask, TaskResult]], missing: str = ""
    ) -> tuple[TaskPlan | None, Usage]:
        await asyncio.sleep(self.seconds[description])
        says = self.says[description]
        if isinstance(says, Exception):
            raise says
        if says is None or says.handle_locally:
            return says, Usage(1, 1, 1)
        finished = [step.task_id for step, result in results if result.success]
        first, second = f"again-{len(results)}", f"then-{len(results)}"
        steps = (SubTask(first, first, (), finished[:1]), SubTask(second, second, (), (first,)))
        return TaskPlan(TaskComplexity.MODERATE, False, steps), Usage(1, 1, 1)

    async def judge(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, str, Usage]:
        answer, usage = await self.compose(description, results)
        return answer, "a number" if description in self.lacking else "", usage

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]:
        await asyncio.sleep(self.seconds[description])
        self.plan = self.plans[description] or LLMUnavailable("no model")
        return await super().analyze(description)


@dataclass
class SimulatedFleet:
    """What outlives a hub: its disk, the clocks, the workers.

    Args:
        folder: the folder of the database.
        jobs_at_once, no_worker: see :class:`Dispatcher` and :class:`DispatchTiming`.
    """

    folder: Path
    jobs_at_once: int = 16
    no_worker: float | None = None
    wall: FakeClock = field(default_factory=FakeClock)
    monotonic: FakeClock = field(default_factory=lambda: FakeClock(5.0))
    planner: SlowPlanner = field(default_factory=SlowPlanner)
    workers: dict[str, SimulatedWorker] = field(default_factory=dict)
    queue_keys: set[QueueKey] = field(default_factory=set)  # those of the jobs

    def tick(self) -> None:
        """Let a moment pass."""
        self.wall.now += 0.001
        self.monotonic.now += 0.001


class Hub:
    """A hub's process, from its start to its end.

    Args:
        fleet: its disk, clocks and workers.
        known: the workers that it knows from the start.

    Attributes:
        broken: broken promises that were found where no exception could be raised.
    """

    def __init__(self, fleet: SimulatedFleet, known: Collection[str]) -> None:
        self.fleet = fleet
        self.loop = VirtualLoop(fleet.monotonic, fleet.wall)
        self.store = JobStore(fleet.folder / "jobs.db", clock=fleet.wall, monotonic=fleet.monotonic)
        self.store.database.connection.execute("PRAGMA synchronous = OFF")  # there are no power cuts here
        addresses = [fleet.workers[name].address for name in known]
        network = SimulatedNetwork(fleet.workers)
        self.pool = WorkerPool(addresses, network, clock=fleet.wall, monotonic=fleet.monotonic, jitter=lambda: 0.0)
        timing = DispatchTiming(LEASE_SECONDS, no_worker=fleet.no_worker, jitter=lambda: 0.0, monotonic=fleet.monotonic)
        self.dispatcher = Dispatcher(
            self.store,
            lambda job_id: fleet.planner,
            self.pool,
            timing=timing,
            jobs_at_once=fleet.jobs_at_once,
            replans=REPLANS,
        )
        self.calls: list[tuple[str, asyncio.Task[Any]]] = []
        self.broken: list[str] = []
        self.is_stopping = False
        self._could_have: dict[int, float] = {}
        self.began = fleet.wall.now
        self._watch_the_queue()
        for coroutine in (self.dispatcher.start(), self._keep_polling()):
            self.calls.append(("", self.loop.create_task(coroutine)))

    def wait(self, job_id: str, seconds: float) -> None:
        self.calls.append((job_id, self.loop.create_task(self._wait(job_id, seconds))))

    def cancel(self, job_id: str) -> None:
        self.calls.append((job_id, self.loop.create_task(self._cancel(job_id))))

    def join(self, name: str) -> None:
        address = self.fleet.workers[name].address
        self.loop.call_soon(lambda: self.pool.join(address, registered=True))

    def leave(self, name: str) -> None:
        def leave() -> None:
            if name in self.pool.queue.workers:
                self.pool.leave(name)

        self.loop.call_soon(leave)

    def stop(self) -> None:
        """Stop the hub in order."""
        self.is_stopping = True
        self.calls[1][1].cancel()
        self.loop.run(self.dispatcher.stop(), seconds=LEASE_SECONDS)
        self.check_calls()
        self.store.close()
        self.loop.kill()

    def kill(self) -> None:
        """End the hub as SIGKILL does: nothing more is done."""
        self.is_stopping = True
        self.dispatcher._stopping = self.dispatcher._steps.leave_running = True
        self.loop.kill()
        self.store.database.close()

    async def _wait(self, job_id: str, seconds: float) -> None:
        began = self.fleet.monotonic.now
        ended = await self.dispatcher.wait(job_id, seconds)
        if ended and not self.is_stopping:
            assert self.store.queries.job(job_id).state in ENDED_JOBS, (
                f"wait() reported the end of {job_id}, which goes on"
            )
        if not ended:
            assert self.fleet.monotonic.now >= began + seconds - A_LITTLE

    async def _cancel(self, job_id: str) -> None:
        await self.dispatcher.cancel(job_id)
        if not self.is_stopping:
            assert self.store.queries.job(job_id).state in ENDED_JOBS, f"{job_id} was cancelled, and goes on"

    async def _keep_polling(self) -> None:
        while True:
            await self.pool.poll()
            self.store.keep_time()
            await asyncio.sleep(POLL_EVERY)

    def _watch_the_queue(self) -> None:
        queue = self.pool.queue
        take = queue.take

        def watched(waiter: Waiter) -> str | None:
            worker_id, key = take(waiter), waiter.queue_key
            if key not in self.fleet.queue_keys:
                self.broken.append(f"no job has the queue key {key}")
            if worker_id is not None:
                skills = self.fleet.workers[worker_id].skills
                for other in queue.waiters:
                    if other.queue_key < key and other.skills <= skills and worker_id not in other.avoid:
                        self.broken.append(f"{worker_id} went to {key}, and {other.queue_key} waits for it")
            return worker_id

        queue.take = watched  # type: ignore[method-assign]  # checks each choice when it is made

    # --- promises ---

    def check_calls(self) -> None:
        """Check that each call of the dispatcher returned the truth."""
        for _, call in self.calls:
            if call.done() and not call.cancelled():
                call.result()
        assert self.broken == [], self.broken
        assert self.loop.errors == [], self.loop.errors

    def check_at_rest(self, jobs: dict[str, Job]) -> None:
        """Check what holds while nothing more happens before time goes by."""
        held = self.store.queries.leases()
        holders = {lease.worker_id for lease in held}
        surely = {lease.worker_id for lease in held if not self.is_ending(jobs[lease.job_id])}
        reserved = {name for name, worker in self.pool.queue.workers.items() if worker.reserved}
        assert surely & set(self.pool.queue.workers) <= reserved <= holders, f"{reserved} are reserved, {held}"
        assert not any(name in self.pool.queue.idle for name in reserved)
        for job_id, call in self.calls:
            if job_id and not call.done():
                assert jobs[job_id].state not in ENDED_JOBS, f"wait() did not report the end of {job_id}"
        self._check_places(jobs)
        self._check_queue()
        if all(worker.link is Link.UP for worker in self.fleet.workers.values()):
            late = [job.job_id for job in jobs.values() if job.state not in ENDED_JOBS and self.is_ending(job)]
            assert late == [], "these should have ended by now"

    def _check_queue(self) -> None:
        """Check that no step waits for a free worker longer than until the next health poll."""
        queue, now = self.pool.queue, self.fleet.monotonic.now
        could = [
            waiter.number
            for waiter in queue.waiters
            if best(queue.idle.values(), waiter.avoid, waiter.skills, now - A_LITTLE) is not None
        ]
        self._could_have = {number: self._could_have.get(number, now) for number in could}
        for number, since in self._could_have.items():
            assert now - since <= POLL_EVERY + CHECK_TIMEOUT, f"waiter {number} waits for a free worker"

    def is_ending(self, job: Job) -> bool:
        """Return whether a job is cancelled or overdue. Its tasks on workers may then end one after the other."""
        left = job.accepted_run + (job.timeout or 1e9) - self.store.queries.running_time()
        return job.cancel_requested or left < -A_LITTLE

    def _check_places(self, jobs: dict[str, Job]) -> None:
        """Check that the more urgent jobs run, and the others wait in the store."""
        running = self.dispatcher._running
        waiting = [job for job in jobs.values() if job.state not in ENDED_JOBS and job.job_id not in running]
        if waiting:
            assert not self.dispatcher._has_room(), f"there is room for {[job.job_id for job in waiting]}"
            urgent = max(job.priority for job in waiting)
            for job_id, taken in running.items():
                assert not taken.replaceable or jobs[job_id].priority >= urgent, (
                    f"{job_id} has a more urgent one's place"
                )


class Promises:
    """Checks the promises made to the jobs' senders against the store. Outlives the hubs."""

    def __init__(self, fleet: SimulatedFleet) -> None:
        self.fleet = fleet
        self.hub: Hub
        self.sent: dict[str, Submission] = {}
        self.cancels: set[str] = set()
        self.sent_at: dict[str, float] = {}
        self.before: dict[str, Job] = {}
        self.runs: dict[tuple[str, str], set[str]] = {}

    def started(self, worker: SimulatedWorker, body: JsonObject) -> None:
        """Check a task that a worker starts: the worker holds its lease, and the steps that it needs have completed."""
        remote_id = str(body["task_id"])
        job_id, task_id, _, _ = remote_id.split(".")
        job = self.hub.store.queries.job(job_id)
        steps = {step.task_id: step for step in job.steps}
        step = steps[task_id]
        problems = []
        if step.lease is None or (step.lease.remote_id, step.lease.worker_id) != (remote_id, worker.name):
            problems.append(f"{worker.name} starts {remote_id} without a lease: {step}")
        for name in step.step.depends_on:
            result = steps[name].result
            if steps[name].state is not StepState.COMPLETED or result is None:
                problems.append(f"{remote_id} is started, and needs {name}")
            elif result.output not in str(body["description"]):
                problems.append(f"{remote_id} did not get the result of {name}")
        runs = self.runs.setdefault((job_id, task_id), set())
        runs.add(remote_id)
        if len(runs) > MAX_ATTEMPTS:
            problems.append(f"{remote_id} is more than attempt {MAX_ATTEMPTS}: {sorted(runs)}")
        self.hub.broken += problems

    def check(self) -> dict[str, Job]:
        """Check that no accepted job is lost, that ended ones stay, and that every end is true; return the jobs."""
        now = {job_id: self.hub.store.queries.job(job_id) for job_id in self.sent}
        leases = self.hub.store.queries.leases()
        holders = [lease.worker_id for lease in leases if not self.hub.is_ending(now[lease.job_id])]
        assert len(holders) == len(set(holders)), f"a worker has two leases: {holders}"
        for job_id, job in now.items():
            before = self.before.get(job_id)
            if before == job:
                continue
            if before is not None:
                self._check_changes(before, job)
            for step in job.steps:
                self._check_step(job, step)
            if job.state in ENDED_JOBS:
                self._check_end(job)
        self.before = now
        return now

    def check_evidence(self) -> None:
        """Check that the late result of each lease that this hub ended is stored, if the worker has one."""
        for job in self.before.values():
            for step in job.steps:
                for attempt in step.attempts:
                    silent = "no sign of life" in (attempt.error or "") and (attempt.finished_at or 0) > self.hub.began
                    worker = self.fleet.workers[attempt.worker_id]
                    if silent and worker.has_result(f"{job.job_id}.{step.task_id}.{attempt.number}."):
                        assert attempt.late_result is not None, f"{attempt} has no late result"

    @staticmethod
    def _check_changes(before: Job, job: Job) -> None:
        if before.state in ENDED_JOBS:
            for old, new in zip(before.steps, job.steps):
                assert (old.state, old.result, old.error) == (new.state, new.result, new.error)
                assert len(old.attempts) == len(new.attempts)
            assert (job.state, job.answer, job.error) == (before.state, before.answer, before.error)
        assert before.plan in (None, job.plan), "it was planned twice"
        assert job.changes[: len(before.changes)] == before.changes, "a version of the plan was changed"
        same_plans = before.plan is not None and job.changes == before.changes
        assert not same_plans or len(job.steps) == len(before.steps), "steps came without a plan"
        assert job.state is before.state or job.state in JOB_TRANSITIONS[before.state] or job.state in ENDED_JOBS
        for old in before.steps:
            new = next(step for step in job.steps if step.task_id == old.task_id)
            if old.state in ENDED_STEPS:
                assert (old.state, old.result) == (new.state, new.result)
            late = [attempt.late_result for attempt in old.attempts if attempt.late_result]
            assert set(map(str, late)) <= {str(attempt.late_result) for attempt in new.attempts}

    def _check_step(self, job: Job, step: StepRecord) -> None:
        steps = {other.task_id: other for other in job.steps}
        needed = {steps[name].state for name in step.step.depends_on}
        assert [attempt.number for attempt in step.attempts] == list(range(1, len(step.attempts) + 1))
        assert len(step.attempts) <= MAX_ATTEMPTS
        if step.attempts:
            assert needed <= {StepState.COMPLETED}
        if step.state is StepState.SKIPPED:
            assert needed & {StepState.FAILED, StepState.SKIPPED, StepState.CANCELLED}
        if step.state is StepState.WAITING:
            assert needed & {StepState.WAITING, StepState.READY, StepState.LEASED}, f"{step} waits for nothing"
        for attempt in step.attempts:
            said = self._said(job, step, attempt.number, attempt.worker_id)
            assert attempt.late_result is None or attempt.late_result.output in said
        if step.result is not None:
            last = step.attempts[-1]
            assert step.result.output in self._said(job, step, last.number, last.worker_id), "no worker reported it"
            assert (step.state is StepState.COMPLETED) == (step.result.state is TaskState.COMPLETED)
        elif step.state is StepState.FAILED and len(step.attempts) < MAX_ATTEMPTS:
            assert "no worker" in (step.error or ""), f"{step} failed too early"

    def _said(self, job: Job, step: StepRecord, number: int, worker_id: str) -> set[str]:
        start = f"{job.job_id}.{step.task_id}.{number}."
        return {said.output for said in self.fleet.workers[worker_id].said if said.task_id.startswith(start)}

    def _check_end(self, job: Job) -> None:
        assert [change.version for change in job.changes] == list(range(2, len(job.changes) + 2))
        assert len(job.changes) <= (REPLANS if self.sent[job.job_id].skills is None else 0)
        assert {step.version for step in job.steps} <= set(range(1, job.version + 1))
        states = {step.state for step in job.steps if step.version == job.version}
        assert {step.state for step in job.steps} <= ENDED_STEPS, f"{job.job_id} has ended, and has open steps"
        assert "defect" not in (job.error or ""), job.error
        if job.state is JobState.CANCELLED:
            assert job.job_id in self.cancels, f"nobody cancelled {job.job_id}"
        elif job.state is JobState.COMPLETED:
            assert states == {StepState.COMPLETED}
            for step in job.steps:
                if step.state is StepState.COMPLETED:
                    assert step.result is not None
                    assert step.result.output in (job.answer or "")
        elif "seconds were up" in (job.error or ""):
            assert job.timeout is not None
            assert self.fleet.wall.now - self.sent_at[job.job_id] >= job.timeout - A_LITTLE, "its time was not up"
        elif job.steps:
            assert states & {StepState.FAILED, StepState.SKIPPED}, f"{job.job_id} failed, and no step of it did"
        else:
            assert "could not be planned" in (job.error or "")
