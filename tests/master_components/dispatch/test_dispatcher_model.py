from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pibot.contracts import SubTask, TaskComplexity, TaskPlan, TaskState
from pibot.errors import LLMUnavailable
from pibot.master_components.dispatch.late_results import MAX_ASK_AGAIN
from pibot.master_components.dispatch.timing import LEASE_SECONDS
from pibot.master_components.store.records import Submission
from pibot.master_components.store.states import ENDED_JOBS
from tests.master_components.dispatch.hub_model import Hub, Promises, SimulatedFleet
from tests.support.examples import examples
from tests.support.simulated_workers import Link, SimulatedWorker

MEMORY = Path("/dev/shm")
"""A file system in memory, which needs no waiting for a disk."""

SKILLS = ("shell_exec", "file_ops")

WORKERS = ("worker-1", "worker-2", "worker-3", "worker-4")

MOST_JOBS = 10

TURNS = st.one_of(st.none(), st.none(), st.integers(0, 15))
"""Turns of the hub's loop until the next event; None for as many as it can take before time goes by."""

FURTHER_STEPS = TaskPlan(TaskComplexity.MODERATE, False)
NOTHING_HELPS = TaskPlan(TaskComplexity.SIMPLE, True, (), "it can't be done")
AFTER_A_FAILURE = (FURTHER_STEPS, FURTHER_STEPS, FURTHER_STEPS, NOTHING_HELPS, None, LLMUnavailable("no model"))
"""What the planner says after a failure; None for a plan that can't be used."""

skills = st.sampled_from([SKILLS[:1], SKILLS[:1], SKILLS])
priorities = st.integers(-1, 1)
timeouts = st.sampled_from([None, None, None, 30.0, 100.0])


@st.composite
def plans(draw: Any) -> TaskPlan:
    """Draw two to five steps. Each may need earlier ones."""
    names = "abcde"[: draw(st.integers(2, 5))]
    steps = []
    for position, name in enumerate(names):
        needed = draw(st.sets(st.sampled_from(names[:position]), max_size=2)) if position else set()
        steps.append(SubTask(name, name, draw(skills), tuple(sorted(needed))))
    return TaskPlan(TaskComplexity.COMPLEX, False, tuple(steps))


class HubMachine(RuleBasedStateMachine):
    """Lets anything happen to a hub and its workers, and checks every promise after each event."""

    sound = False

    @initialize(
        jobs_at_once=st.sampled_from([1, 2, 16]), no_worker=st.sampled_from([None, 50.0]), workers=st.integers(1, 3)
    )
    def begin(self, jobs_at_once: int, no_worker: float | None, workers: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="pibot-model-", dir=MEMORY if MEMORY.is_dir() else None))
        self.fleet = SimulatedFleet(folder, jobs_at_once, no_worker)
        self.promises = Promises(self.fleet)
        for number, name in enumerate(WORKERS):
            has = frozenset(SKILLS if number != 1 else SKILLS[:1])
            self.fleet.workers[name] = SimulatedWorker(name, has, self.fleet.monotonic, self.promises.started)
        self.known = list(WORKERS[:workers])
        self.start()
        self.send(Submission("job-0", SKILLS[:1], job_id="job-0"))
        self.go(None)

    def start(self) -> None:
        self.hub = self.promises.hub = Hub(self.fleet, self.known)

    def go(self, turns: int | None) -> None:
        """Let the hub work for so many turns of its loop."""
        self.sound = False
        if turns is None:
            self.hub.loop.settle()
        for _ in range(turns or 0):
            self.hub.loop.turn()

    # --- jobs ---

    @precondition(lambda self: len(self.promises.sent) < MOST_JOBS)
    @rule(
        plan=st.none() | plans(),
        step=skills,
        timeout=timeouts,
        priorities=st.lists(priorities, min_size=1, max_size=3),
        data=st.data(),
        turns=TURNS,
    )
    def submit(
        self,
        plan: TaskPlan | None,
        step: tuple[str, ...],
        timeout: float | None,
        priorities: list[int],
        data: Any,
        turns: int | None,
    ) -> None:
        seconds = data.draw(st.sampled_from([0.0, 0.0, 5.0]), "planning takes") if plan else 0.0
        can_be_planned = not plan or data.draw(st.integers(0, 4), "0 can't be planned")
        says = data.draw(st.sampled_from(AFTER_A_FAILURE), "after a failure") if plan else None
        lacks = bool(plan) and data.draw(st.integers(0, 3), "0 lacks something") == 0
        for priority in priorities:
            name = f"job-{len(self.promises.sent)}"
            self.fleet.planner.plans[name] = plan if can_be_planned else None
            self.fleet.planner.seconds[name] = seconds
            self.fleet.planner.says[name] = says
            if lacks:
                self.fleet.planner.lacking.add(name)
            self.send(Submission(name, None if plan else step, timeout, priority, job_id=name))
        self.go(turns)

    def send(self, submission: Submission) -> None:
        self.fleet.tick()
        job = self.hub.store.submit(submission)
        self.promises.sent[job.job_id] = submission
        self.promises.sent_at[job.job_id] = self.fleet.wall.now
        self.fleet.queue_keys.add((-job.priority, job.accepted_run))
        self.hub.loop.call_soon(self.hub.dispatcher.notify, job.job_id, job.priority, job.timeout)

    @rule(data=st.data(), turns=TURNS)
    def cancel(self, data: Any, turns: int | None) -> None:
        job_id = self.some_job(data)
        if self.working() and data.draw(st.booleans(), "as a task ends"):
            self.working()[0].finish(TaskState.COMPLETED)
            self.go(data.draw(st.integers(0, 6), "turns until then"))
        self.promises.cancels.add(job_id)
        self.hub.cancel(job_id)
        self.go(turns)

    @rule(data=st.data(), seconds=st.sampled_from([1.0, 500.0]), turns=TURNS)
    def wait(self, data: Any, seconds: float, turns: int | None) -> None:
        self.hub.wait(self.some_job(data), seconds)
        self.go(turns)

    # --- workers ---

    @precondition(lambda self: self.working())
    @rule(
        data=st.data(),
        state=st.sampled_from([*[TaskState.COMPLETED] * 4, TaskState.FAILED, TaskState.TIMEOUT, TaskState.CANCELLED]),
        turns=TURNS,
    )
    def a_task_ends(self, data: Any, state: TaskState, turns: int | None) -> None:
        data.draw(st.sampled_from(self.working()), "worker").finish(state)
        self.go(turns)

    @rule(data=st.data(), turns=TURNS)
    def a_worker_is_lost(self, data: Any, turns: int | None) -> None:
        worker = self.some_worker(data)
        how = data.draw(st.sampled_from(["restarted", "off", "silent", "cut off"]), "how")
        if how in ("restarted", "off"):
            worker.restart()
        if how != "restarted":
            worker.connect(Link.SILENT if how == "silent" else Link.REFUSED)
        self.go(turns)

    @precondition(lambda self: self.working())
    @rule(data=st.data(), goes_on=st.booleans(), turns=TURNS)
    def a_worker_is_silent_for_its_lease(self, data: Any, goes_on: bool, turns: int | None) -> None:
        worker = data.draw(st.sampled_from(self.working()), "worker")
        worker.connect(Link.SILENT)
        self.hub.loop.pass_time(LEASE_SECONDS + 1.0)
        if worker.running and not goes_on:
            worker.finish(TaskState.COMPLETED)
        if data.draw(st.booleans(), "comes back"):
            worker.connect(Link.UP)
            if data.draw(st.booleans(), "is asked"):
                self.hub.loop.pass_time(MAX_ASK_AGAIN)
        self.go(turns)

    @precondition(lambda self: any(worker.link is not Link.UP for worker in self.fleet.workers.values()))
    @rule(data=st.data(), turns=TURNS)
    def a_worker_comes_back(self, data: Any, turns: int | None) -> None:
        away = [worker for worker in self.fleet.workers.values() if worker.link is not Link.UP]
        data.draw(st.sampled_from(away), "worker").connect(Link.UP)
        self.go(turns)

    @rule(data=st.data(), turns=TURNS)
    def a_worker_is_awkward(self, data: Any, turns: int | None) -> None:
        worker = self.some_worker(data)
        how = data.draw(st.sampled_from(["cuts", "refuses", "works for others", "is there for all"]), "how")
        if how == "cuts":
            worker.cuts += 1
        elif how == "refuses":
            worker.refusals += 1
        elif worker.running is None:
            worker.elsewhere = how == "works for others"
        self.go(turns)

    @rule(data=st.data(), turns=TURNS)
    def a_worker_joins_or_leaves(self, data: Any, turns: int | None) -> None:
        name = data.draw(st.sampled_from(WORKERS), "worker")
        if name in self.hub.pool.queue.workers and data.draw(st.booleans(), "leaves"):
            self.hub.leave(name)
        else:
            self.hub.join(name)
        self.go(turns)

    # --- time and the hub's own end ---

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0, 70.0]), turns=TURNS)
    def time_goes_by(self, seconds: float, turns: int | None) -> None:
        self.go(turns)
        self.hub.loop.pass_time(seconds)

    @rule(killed=st.booleans(), power=st.booleans(), data=st.data(), turns=TURNS)
    def the_hub_is_started_again(self, killed: bool, power: bool, data: Any, turns: int | None) -> None:
        if data.draw(st.booleans(), "a job is cancelled just before"):
            self.cancel(data, data.draw(st.integers(0, 3), "turns until then"))
        self.sound = False
        # A worker that had joined joins again, and so does every worker with a task of this hub.
        at_work = [worker.name for worker in self.working()]
        self.known = list(dict.fromkeys([*self.hub.pool.queue.workers, *at_work]))
        if killed:
            self.hub.kill()
        else:
            self.hub.stop()
        for worker in self.working():
            if data.draw(st.booleans(), "its task ends meanwhile"):
                worker.finish(TaskState.COMPLETED)
        if power:
            self.fleet.monotonic.now = 3.0
        self.start()
        self.hub.loop.eager = data.draw(st.booleans(), "a fast disk")
        self.go(turns)

    # --- what holds after each event ---

    @invariant()
    def promises_are_kept(self) -> None:
        self.sound = False
        self.hub.check_calls()
        jobs = self.promises.check()
        if self.hub.loop.is_quiet:
            self.hub.check_at_rest(jobs)
        self.sound = True

    def teardown(self) -> None:
        try:
            if self.sound:
                self.everything_ends()
        finally:
            if not self.hub.loop.killed:
                self.hub.kill()
            shutil.rmtree(self.fleet.folder)

    def everything_ends(self) -> None:
        """Check that every job ends and leaves nothing behind, once all workers are well."""
        for name, worker in self.fleet.workers.items():
            worker.cuts = worker.refusals = 0
            worker.elsewhere = False
            worker.connect(Link.UP)
            self.hub.join(name)
        for _ in range(100):
            for worker in self.working():
                worker.finish(TaskState.COMPLETED)
            self.hub.loop.pass_time(61.0)
            self.promises_are_kept()
            if all(job.state in ENDED_JOBS for job in self.promises.before.values()):
                break
        else:
            raise AssertionError(f"these jobs do not end: {self.hub.store.queries.unfinished()}")
        self.hub.loop.pass_time(1500.0)
        self.promises_are_kept()
        assert self.hub.store.queries.leases() == ()
        assert not any(worker.reserved for worker in self.hub.pool.queue.workers.values())
        assert (self.hub.dispatcher._running, self.hub.dispatcher._deadlines, self.hub.dispatcher._waiters) == (
            {},
            {},
            {},
        )
        assert self.hub.dispatcher._steps._resumed._reserved == set()
        self.promises.check_evidence()
        assert not self.working(), "these workers run tasks of no step"
        self.hub.stop()

    # --- choices ---

    def some_job(self, data: Any) -> str:
        job_id: str = data.draw(st.sampled_from(list(self.promises.sent)), "job")
        return job_id

    def some_worker(self, data: Any) -> SimulatedWorker:
        """Draw a worker that has a task, if any has: little can happen to the others."""
        worker: SimulatedWorker = data.draw(
            st.sampled_from(self.working() or [self.fleet.workers[name] for name in WORKERS[:3]]), "worker"
        )
        return worker

    def working(self) -> list[SimulatedWorker]:
        return [worker for worker in self.fleet.workers.values() if worker.running]


@pytest.mark.timeout(900)  # a hundred examples, on a machine that may be busy
def test_whatever_happens_every_job_ends_as_promised_and_leaves_nothing_behind() -> None:
    run_state_machine_as_test(
        HubMachine,
        settings=settings(
            max_examples=examples(100),
            stateful_step_count=40,
            # The same examples each time, and no search for a smaller one, which takes minutes. For other examples,
            # remove this line and give pytest a --hypothesis-seed.
            derandomize=True,
            phases=(Phase.generate,),
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
