"""Tool calls that wait for the owner: what the hub stores, and what it sends to their workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pibot.contracts import ApprovalRequest, Decision, PendingCalls, TaskResult, TaskState, digest_of
from pibot.errors import (
    ApprovalConflict,
    ApprovalNotFound,
    ApprovalOver,
    TaskNotFound,
    WorkerRejected,
    WorkerUnreachable,
)
from pibot.master_components.dispatch.approvals import ApprovalBroker
from pibot.master_components.store.jobs import JobStore
from pibot.master_components.store.records import Lease, Submission
from pibot.master_components.store.states import ApprovalState, JobState
from pibot.master_components.store.thread import StoreThread
from tests.support.clocks import FakeClock

LS = ApprovalRequest("1", "shell_exec", {"command": "ls"}, digest_of("shell_exec", {"command": "ls"}), 5.0)
YES, NO = Decision(LS.digest, True), Decision(LS.digest, False, "why?")


class FakePool:
    """Keeps the decisions that it should send. Raises ``problem`` if there is one."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str, Decision]] = []
        self.problem: Exception | None = None

    async def decide(self, worker_id: str, task_id: str, call_id: str, decision: Decision) -> None:
        self.sent.append((worker_id, task_id, call_id, decision))
        if self.problem is not None:
            raise self.problem


class Case:
    def __init__(self, path: Path) -> None:
        self.store = JobStore(path / "jobs.db", clock=FakeClock(100.0))
        self.pool = FakePool()
        self.on_disk = StoreThread()
        self.approvals = ApprovalBroker(self.store.approvals, self.on_disk, self.pool)
        self.job_id = self.store.submit(Submission("x", skills=("shell_exec",))).job_id
        self.lease = self.store.leases.grant(self.job_id, "step-1", "worker-1", 60)

    async def heard(self, *calls: ApprovalRequest, lease: Lease | None = None) -> None:
        await self.approvals.of(lease or self.lease)(calls)

    @property
    def states(self) -> list[str]:
        return [a.state.value for a in self.store.queries.job(self.job_id).approvals]

    @property
    def only(self) -> str:
        (approval,) = self.store.queries.job(self.job_id).approvals
        return approval.approval_id

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.queries.events()]


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = Case(tmp_path)
    yield made
    made.on_disk.close()
    made.store.close()


async def test_a_waiting_call_is_stored_once_and_shown_with_its_job(case: Case) -> None:
    for _ in range(3):
        await case.heard(LS)
    (approval,) = case.store.approvals.waiting()
    assert (approval.job_id, approval.worker_id, approval.tool) == (case.job_id, "worker-1", "shell_exec")
    assert (approval.arguments, approval.asked_at) == ({"command": "ls"}, 100.0)
    assert case.store.queries.job(case.job_id).to_json()["waiting_for_approval"] is True
    assert case.kinds().count("approval_asked") == 1


async def test_a_decision_is_stored_and_sent_to_the_worker(case: Case) -> None:
    await case.heard(LS)
    approval = await case.approvals.decide(case.only, NO, "phone")
    assert (approval.state, approval.decided_by, approval.decided_at) == (ApprovalState.REFUSED, "phone", 100.0)
    assert case.pool.sent == [("worker-1", case.lease.remote_id, "1", NO)]
    assert case.store.approvals.waiting() == ()
    await case.approvals.decide(case.only, NO, "phone")  # a second time is fine, and sends nothing
    assert len(case.pool.sent) == 1


async def test_a_decision_with_another_digest_or_against_an_earlier_one_is_refused(case: Case) -> None:
    await case.heard(LS)
    with pytest.raises(ApprovalConflict, match=LS.digest):
        await case.approvals.decide(case.only, Decision("0" * 64, True), "owner")
    assert case.states == ["waiting"]
    await case.approvals.decide(case.only, YES, "owner")
    with pytest.raises(ApprovalConflict, match="was approved before"):
        await case.approvals.decide(case.only, NO, "owner")
    with pytest.raises(ApprovalNotFound):
        await case.approvals.decide("none", YES, "owner")
    assert case.pool.sent == [("worker-1", case.lease.remote_id, "1", YES)]


async def test_a_worker_that_was_away_gets_the_decision_when_it_reports_the_call_again(case: Case) -> None:
    await case.heard(LS)
    case.pool.problem = WorkerUnreachable("worker-1", "silent")
    assert (await case.approvals.decide(case.only, YES, "owner")).state is ApprovalState.APPROVED
    case.pool.problem = None
    await case.heard(LS)
    assert [decision for *_, decision in case.pool.sent] == [YES, YES]
    await case.heard()
    assert (case.states, len(case.pool.sent)) == (["approved"], 2)


@pytest.mark.parametrize(
    "problem", [WorkerRejected("worker-1", "over", status=410), TaskNotFound("worker-1: no task 'x'")]
)
async def test_a_call_that_no_longer_waits_on_its_worker_is_over(case: Case, problem: Exception) -> None:
    await case.heard(LS)
    case.pool.problem = problem
    with pytest.raises(ApprovalOver, match="does not wait any more"):
        await case.approvals.decide(case.only, YES, "owner")
    assert case.states == ["over"]


async def test_a_worker_that_refuses_the_hubs_key_ends_no_call(case: Case) -> None:
    await case.heard(LS)
    case.pool.problem = WorkerRejected("worker-1", "the key is wrong", status=401)
    await case.approvals.decide(case.only, YES, "owner")
    assert case.states == ["approved"]


async def test_a_call_that_the_worker_no_longer_reports_is_over(case: Case) -> None:
    await case.heard(LS)
    await case.heard()
    assert (case.states, case.kinds()[0]) == (["over"], "approval_over")
    with pytest.raises(ApprovalOver):
        await case.approvals.decide(case.only, YES, "owner")


@pytest.mark.parametrize("how", ["cancelled", "attempt", "result"])
async def test_a_call_ends_with_its_attempt(case: Case, how: str) -> None:
    await case.heard(LS)
    if how == "cancelled":
        case.store.finish(case.job_id, JobState.CANCELLED, error="the job was cancelled")
    elif how == "attempt":
        case.store.leases.fail(case.lease, "it died", final=False)
    else:
        case.store.leases.complete(case.lease, TaskResult("step-1", "worker-1", TaskState.COMPLETED, "done"))
    assert (case.states, case.store.approvals.waiting()) == (["over"], ())
    await case.heard(LS)  # a late report of the old attempt
    assert case.states == ["over"]


async def test_another_attempt_asks_for_approval_again(case: Case) -> None:
    await case.heard(LS)
    await case.approvals.decide(case.only, YES, "owner")
    case.store.leases.fail(case.lease, "it died", final=False)
    lease = case.store.leases.grant(case.job_id, "step-1", "worker-2", 60)
    await case.heard(LS, lease=lease)
    assert sorted(case.states) == ["approved", "waiting"]
    assert len(case.pool.sent) == 1


async def test_a_pruned_jobs_calls_are_deleted_with_it(case: Case) -> None:
    await case.heard(LS)
    case.store.finish(case.job_id, JobState.CANCELLED)
    approval_id = case.only
    case.store.limits.prune(keep_seconds=1e9, keep_jobs=0)
    with pytest.raises(ApprovalNotFound):
        await case.approvals.decide(approval_id, YES, "owner")


def test_a_call_that_does_not_match_its_digest_is_not_shown() -> None:
    row = LS.to_json()
    bad: list[Any] = [{**row, "arguments": {"command": "rm"}}, {**row, "approval_id": "../x"}, None, 7, {}]
    got = PendingCalls.from_json({"approvals": [*bad, row], "approvals_asked": 6, "waited_seconds": 2.5})
    assert got == PendingCalls(6, 2.5, (LS,))
    assert (
        PendingCalls.from_json({"approvals": "x", "approvals_asked": -1, "waited_seconds": float("nan")})
        == PendingCalls()
    )
