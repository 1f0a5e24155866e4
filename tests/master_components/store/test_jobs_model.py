"""Through random events, the real store does what its model does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pibot.contracts import SubTask, TaskComplexity, TaskPlan, TaskResult, TaskState
from pibot.errors import IllegalTransition, JobNotFound, LeaseLost
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Job, Lease, Submission
from pibot.master_components.store.states import (
    ENDED_JOBS,
    JOB_TRANSITIONS,
    MAX_ATTEMPTS,
    STEP_TRANSITIONS,
    JobState,
    StepState,
)
from tests.master_components.store.job_store_model import Model, ModelJob
from tests.support.clocks import FakeClock
from tests.support.examples import examples

PLANS: list[dict[str, tuple[str, ...]]] = [
    {"a": ()},
    {"a": (), "b": ("a",)},
    {"a": (), "b": (), "c": ("a", "b")},
    {"a": (), "b": ("a",), "c": ("b",), "d": ()},
]

MEMORY = Path("/dev/shm")
"""A file system in memory. These tests are not about power cuts, so they need no disk."""

NOT_READY = [state for state in StepState if state is not StepState.READY]

FAILED_STATES = (TaskState.FAILED, TaskState.TIMEOUT, TaskState.CANCELLED)


def plan_of(needs: dict[str, tuple[str, ...]]) -> TaskPlan:
    return TaskPlan(TaskComplexity.COMPLEX, False, tuple(SubTask(n, n, (), w) for n, w in needs.items()))


class StoreMachine(RuleBasedStateMachine):
    """Does the same to the store and to the model, and compares them after each event."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="pibot-model-", dir=MEMORY if MEMORY.is_dir() else None))
        self.clock, self.monotonic = FakeClock(), FakeClock(5.0)
        self.model = Model()
        self.leases: list[Lease] = []
        self.results: dict[tuple[str, str], TaskResult] = {}
        self.before: dict[str, Job] = {}

    def open(self) -> None:
        self.store = JobStore(self.folder / "jobs.db", clock=self.clock, monotonic=self.monotonic)
        self.store.database.connection.execute("PRAGMA synchronous = OFF")  # there are no power cuts here

    @initialize(needs=st.sampled_from(PLANS))
    def begin(self, needs: dict[str, tuple[str, ...]]) -> None:
        """Begin with a job whose steps are ready, because most failures need one."""
        self.open()
        job_id = self.store.submit(Submission("the first")).job_id
        self.model.submit(job_id, 0, single=False)
        self.store.save_plan(job_id, plan_of(needs))
        self.model.plan(job_id, needs)

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    # --- events ---

    @rule(single=st.booleans(), priority=st.integers(-1, 1))
    def submit(self, single: bool, priority: int) -> None:
        job = self.store.submit(Submission("x", () if single else None, priority=priority))
        self.model.submit(job.job_id, priority, single=single)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), needs=st.sampled_from(PLANS))
    def plan(self, data: Any, needs: dict[str, tuple[str, ...]]) -> None:
        job_id, job = self.some_job(data)
        plan = plan_of(needs)
        if job.state in (JobState.QUEUED, JobState.PLANNING) and not job.steps:
            self.store.start_planning(job_id)
            job.state = JobState.PLANNING
            if data.draw(st.booleans(), "the plan comes"):
                self.store.save_plan(job_id, plan)
                self.model.plan(job_id, needs)
        elif job.state is not JobState.QUEUED:
            with pytest.raises(IllegalTransition):
                self.store.save_plan(job_id, plan)

    @precondition(lambda self: self.steps(StepState.READY))
    @rule(data=st.data(), worker=st.sampled_from(["worker-1", "worker-2"]))
    def lease(self, data: Any, worker: str) -> None:
        job_id, task_id = data.draw(st.sampled_from(self.steps(StepState.READY)), "step")
        lease = self.store.leases.grant(job_id, task_id, worker, 60.0)
        self.model.lease(lease)
        self.leases.append(lease)

    @precondition(lambda self: self.steps(*NOT_READY))
    @rule(data=st.data())
    def lease_what_is_not_ready(self, data: Any) -> None:
        job_id, task_id = data.draw(st.sampled_from(self.steps(*NOT_READY)), "step")
        with pytest.raises(IllegalTransition):
            self.store.leases.grant(job_id, task_id, "worker-3", 60.0)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def renew(self, data: Any) -> None:
        lease = self.some_lease(data)
        if self.model.holds(lease):
            assert self.store.leases.renew(lease, 60.0).expires_at == self.clock.now + 60.0
        else:
            with pytest.raises(LeaseLost):
                self.store.leases.renew(lease, 60.0)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), state=st.sampled_from([TaskState.COMPLETED, TaskState.COMPLETED, *FAILED_STATES]))
    def complete(self, data: Any, state: TaskState) -> None:
        lease = self.some_lease(data)
        error = None if state is TaskState.COMPLETED else "it failed"
        result = TaskResult(
            lease.task_id, lease.worker_id, state, f"output {len(self.results)} of {lease.token}", error=error
        )
        if not self.model.holds(lease):
            with pytest.raises(LeaseLost):
                self.store.leases.complete(lease, result)
            self.model.too_late(lease, result.output)
            return
        finish_job = len(self.model.jobs[lease.job_id].steps) == 1 and data.draw(st.booleans(), "ends the job")
        self.store.leases.complete(lease, result, finish_job=finish_job)
        self.model.complete(lease, state, result.output, error, finish_job=finish_job)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), final=st.booleans(), count=st.booleans())
    def fail_attempt(self, data: Any, final: bool, count: bool) -> None:
        lease, final = self.some_lease(data), final and count
        if self.model.holds(lease):
            self.store.leases.fail(lease, "no answer", final=final, count=count)
            self.model.fail_attempt(lease, "no answer", final=final, count=count)
        else:
            with pytest.raises(LeaseLost):
                self.store.leases.fail(lease, "no answer", final=final, count=count)

    @precondition(lambda self: self.steps(StepState.LEASED))
    @rule(count=st.sampled_from([True, True, True, False]))
    def a_worker_is_lost_and_another_takes_over(self, count: bool) -> None:
        lease = max((lease for lease in self.leases if self.model.holds(lease)), key=lambda lease: lease.attempt)
        self.store.leases.fail(lease, "lost", final=False, count=count)
        self.model.fail_attempt(lease, "lost", final=False, count=count)
        if self.model.jobs[lease.job_id].steps[lease.task_id].state is StepState.READY:
            again = self.store.leases.grant(lease.job_id, lease.task_id, "worker-3", 60.0)
            self.model.lease(again)
            self.leases.append(again)

    @precondition(lambda self: len(self.steps(*StepState)) > 4)
    @rule(data=st.data())
    def give_up(self, data: Any) -> None:
        job_id, task_id = data.draw(st.sampled_from(self.steps(*StepState)), "step")
        self.store.give_up(job_id, task_id, "no worker")
        self.model.give_up(job_id, task_id)

    @precondition(lambda self: len(self.model.jobs) > 2)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        job_id, _ = self.some_job(data)
        self.store.request_cancel(job_id)
        self.model.cancel(job_id)

    @precondition(lambda self: len(self.model.jobs) > 2)
    @rule(data=st.data(), state=st.sampled_from(sorted(ENDED_JOBS, key=lambda s: s.value)))
    def finish(self, data: Any, state: JobState) -> None:
        job_id, job = self.some_job(data)
        if job.has_ended:
            with pytest.raises(IllegalTransition):
                self.store.finish(job_id, state, answer="another")
        else:
            self.store.finish(job_id, state, answer="the answer")
            self.model.finish(job_id, state, "the answer")

    @precondition(lambda self: self.model.ended)
    @rule(keep=st.integers(0, 3), limit=st.sampled_from([None, 1, 2]))
    def prune(self, keep: int, limit: int | None) -> None:
        gone = max(0, len(self.model.ended) - keep)
        gone = gone if limit is None else min(gone, limit)
        assert self.store.limits.prune(keep_seconds=1e9, keep_jobs=keep, limit=limit) == gone
        self.model.prune(gone)

    @rule(seconds=st.floats(0.5, 100.0), jump=st.sampled_from([0.0, 0.0, 1e9, -1e9]))
    def time_goes_on(self, seconds: float, jump: float) -> None:
        self.monotonic.now += seconds
        self.clock.now += seconds + jump

    @rule(killed=st.booleans())
    def start_again(self, killed: bool) -> None:
        (self.store.database if killed else self.store).close()
        self.monotonic.now = 3.0  # counted from the machine's start
        self.open()

    # --- what holds after each event ---

    @invariant()
    def a_moment_passes(self) -> None:
        self.monotonic.now += 0.001

    @invariant()
    def store_is_as_the_model_says(self) -> None:
        now = {job_id: self.store.queries.job(job_id) for job_id in self.model.jobs}
        for job_id, job in now.items():
            expected = self.model.jobs[job_id]
            assert (job.state, job.cancel_requested, job.answer) == (
                expected.state,
                expected.cancel_requested,
                expected.answer,
            )
            assert (job.finished_at is None) == (not expected.has_ended)
            self.check_steps(job, expected)
            self.check_transitions(self.before.get(job_id), job)
        for job_id in self.before.keys() - now.keys():
            with pytest.raises(JobNotFound):
                self.store.queries.job(job_id)
        self.before = now

    def check_steps(self, job: Job, expected: ModelJob) -> None:
        assert {s.task_id: s.state for s in job.steps} == {n: s.state for n, s in expected.steps.items()}
        for step in job.steps:
            model = expected.steps[step.task_id]
            assert (step.lease.token if step.lease else None) == model.token
            assert [(a.worker_id, a.error) for a in step.attempts] == [(a.worker_id, a.error) for a in model.attempts]
            assert [a.number for a in step.attempts] == list(range(1, len(step.attempts) + 1))
            assert len(step.attempts) <= MAX_ATTEMPTS
            assert [a.finished_at is not None for a in step.attempts] == [a.is_over for a in model.attempts]
            late = [a.late_result.output if a.late_result else None for a in step.attempts]
            assert late == [a.late_output for a in model.attempts]
            assert (step.result.output if step.result else None) == model.output
            if step.result is not None:  # a recorded result never changes
                assert self.results.setdefault((job.job_id, step.task_id), step.result) == step.result

    @staticmethod
    def check_transitions(before: Job | None, job: Job) -> None:
        if before is None:
            return
        assert job.state is before.state or job.state in JOB_TRANSITIONS[before.state]
        states = {step.task_id: step.state for step in before.steps}
        for step in job.steps:
            was = states.get(step.task_id, step.state)
            assert step.state is was or step.state in STEP_TRANSITIONS[was]

    @invariant()
    def tallies_are_what_counting_would_find(self) -> None:
        states = [job.state for job in self.model.jobs.values()]
        assert self.store.queries.counts() == {state: states.count(state) for state in JobState}
        unfinished = [job_id for job_id, job in self.model.jobs.items() if not job.has_ended]
        assert self.store.queries.unfinished() == tuple(sorted(unfinished, key=lambda j: -self.model.jobs[j].priority))

    @invariant()
    def events_are_of_jobs_that_there_are(self) -> None:
        assert {e.job_id for e in self.store.queries.events(limit=10_000)} <= set(self.model.jobs)

    @invariant()
    def time_never_goes_back(self) -> None:
        times = [self.store.queries.job(job_id).accepted_run for job_id in self.model.jobs]
        assert [*times, self.store.queries.running_time()] == sorted([*times, self.store.queries.running_time()])

    # --- choices ---

    def some_job(self, data: Any) -> tuple[str, ModelJob]:
        job_id = data.draw(st.sampled_from(list(self.model.jobs)), "job")
        return job_id, self.model.jobs[job_id]

    def steps(self, *states: StepState) -> list[tuple[str, str]]:
        return [
            (job_id, name)
            for job_id, job in self.model.jobs.items()
            for name, step in job.steps.items()
            if step.state in states
        ]

    def some_lease(self, data: Any) -> Lease:
        """Draw a lease: held, lost to another worker, or lost otherwise, each kind as often as the others."""
        held = [lease for lease in self.leases if self.model.holds(lease)]
        active = {(lease.job_id, lease.task_id) for lease in held}
        lost = [lease for lease in self.leases if lease not in held]
        taken_over = [lease for lease in lost if (lease.job_id, lease.task_id) in active]
        kinds = [kind for kind in (held, taken_over, lost) if kind]
        lease: Lease = data.draw(st.sampled_from(data.draw(st.sampled_from(kinds))), "lease")
        return lease


@pytest.mark.timeout(900)  # a hundred examples, on a machine that may be busy
def test_whatever_happens_the_store_does_what_its_model_does() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=examples(100),
            stateful_step_count=50,
            deadline=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
