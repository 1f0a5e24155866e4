from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot.contracts import Usage
from pibot.master_components import JobStore
from pibot.master_components.store.records import Submission
from pibot.master_components.store.spending import Spending, Spent
from pibot.master_components.store.states import JobState
from tests.support.clocks import FakeClock

DAY = 86_400.0


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[JobStore]:
    with contextlib.closing(JobStore(tmp_path / "jobs.db", clock=clock, monotonic=clock)) as store:
        yield store


def spent(tokens: int = 10, caller: str = "worker-1", cost: float | None = None, job_id: str | None = None) -> Spent:
    return Spent(caller, "m", Usage(tokens, 1, 1), job_id, cost=cost)


def test_calls_are_summed_up_by_day_caller_and_model(store: JobStore, clock: FakeClock) -> None:
    store.spend([spent(10), spent(20), spent(5, "master")])
    first = store.accounts.today()
    clock.now += DAY
    store.spend([spent(1)])

    assert store.accounts.of_day(first) == (
        Spending(Usage(5, 1, 1), 0, None, "master", "m"),
        Spending(Usage(30, 2, 2), 0, None, "worker-1", "m"),
    )
    assert [(day, sums.usage.prompt_tokens) for day, sums in store.accounts.days(7)] == [
        (store.accounts.today(), 1),
        (first, 35),
    ]


def test_sums_outlive_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    with contextlib.closing(JobStore(tmp_path / "jobs.db", clock=clock)) as store:
        store.spend([spent(10)])
    with contextlib.closing(JobStore(tmp_path / "jobs.db", clock=clock)) as store:
        assert store.accounts.of_day()[0].usage == Usage(10, 1, 1)


def test_a_call_without_a_price_leaves_the_cost_of_others(store: JobStore) -> None:
    job_id = store.submit(Submission("x")).job_id
    for cost in (None, 0.5, None, 0.25):
        store.spend([spent(cost=cost, job_id=job_id)])
    assert store.queries.job(job_id).cost == 0.75
    assert store.accounts.of_job(job_id)[0].cost == 0.75


def test_a_pruned_jobs_rows_are_deleted_and_the_days_stay(store: JobStore) -> None:
    job_id = store.submit(Submission("x")).job_id
    store.spend([spent(job_id=job_id)])
    store.finish(job_id, JobState.COMPLETED)
    store.limits.prune(keep_seconds=DAY, keep_jobs=0)
    assert store.accounts.of_job(job_id) == ()
    assert store.accounts.of_day()[0].usage == Usage(10, 1, 1)


def test_a_call_for_a_pruned_job_counts_for_the_day(store: JobStore) -> None:
    store.spend([spent(job_id="job-gone")])
    assert store.accounts.of_day()[0].usage == Usage(10, 1, 1)


def test_the_last_days_with_calls_are_kept_whatever_the_clock_says(store: JobStore, clock: FakeClock) -> None:
    for days in (0, 1, 2, 30_000):  # before the last one, the clock jumped
        clock.now = days * DAY
        store.spend([spent()])
    assert store.accounts.prune(keep=3) == 1
    assert [day for day, _ in store.accounts.days(10)] == ["2052-02-20", "1970-01-03", "1970-01-02"]


def test_no_day_is_deleted_before_there_are_too_many(store: JobStore, clock: FakeClock) -> None:
    for _ in range(3):
        store.spend([spent(caller=name) for name in ("master", "worker-1", "worker-2", "worker-3")])
        clock.now += DAY
        assert store.accounts.prune(keep=3) == 0
    assert store.accounts.prune() == 0
    assert [sums.usage.llm_calls for _, sums in store.accounts.days(10)] == [4, 4, 4]


def test_a_workers_lease_is_found_until_it_ends(store: JobStore) -> None:
    job = store.submit(Submission("x", skills=()))
    lease = store.leases.grant(job.job_id, "step-1", "worker-1", 60.0)
    assert store.accounts.lease_of("worker-1") == lease
    assert store.accounts.lease_of("worker-2") is None
    store.leases.fail(lease, "gone", final=False)
    assert store.accounts.lease_of("worker-1") is None


def test_the_search_for_a_lease_uses_its_index(store: JobStore, tmp_path: Path) -> None:
    with store.database.reading() as db:
        plan = db.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM subtask WHERE state = 'leased' AND worker_id = 'worker-1'"
        ).fetchall()
    assert "subtask_leased" in str([tuple(row) for row in plan])
