"""Run tasks on the fleet, one at a time, and check what came of them."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any
from urllib.parse import quote

from pibot.cli.evaluation.checks import Evidence, failures
from pibot.cli.evaluation.pages import NEEDED, PageServer
from pibot.cli.evaluation.tasks import Task
from pibot.cli.follow import follow
from pibot.cli.hub_client import UNREACHABLE, HubClient, HubError
from pibot.contracts import JsonObject

ANSWER_CHARS = 1000
"""Characters of an answer that a run keeps."""


class Outcome(Enum):
    """How a run of a task ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"  # this fleet can't try it
    STOPPED = "stopped"  # the budget was spent


@dataclass(frozen=True)
class Run:
    """One run of a task.

    Args:
        task: its name.
        number: from 1.
        reason: why it did not pass; empty if it did.
        answer: the job's answer, or its error where it has none, cut to :data:`ANSWER_CHARS`.
        job_id: empty if there was no job.
        steps: of the plan.
        calls, tokens: of the model, for all of the job.
        cost: in the owner's currency; None where no model has a price.
        seconds: from the job's acceptance to its end, by the hub's clock.
        models: the calls that each model answered through the gateway, by its name.
    """

    task: str
    number: int
    outcome: Outcome
    reason: str = ""
    answer: str = ""
    job_id: str = ""
    steps: int = 0
    calls: int = 0
    tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    models: Mapping[str, int] = field(default_factory=dict)


class _Stop(Exception):
    """Ends a job that runs."""

    def __init__(self, outcome: Outcome, reason: str) -> None:
        super().__init__(reason)
        self.outcome = outcome


class Evaluation:
    """Runs tasks on one fleet.

    Args:
        hub: the fleet's.
        pages: serves the tasks' pages; None if the workers can reach none.
        skills: those that the workers have; None if that is not known.
        timeout: seconds for each job.
        budget: tokens for all runs together; None for no limit.
        rng: for the tasks' random values.
    """

    def __init__(
        self,
        hub: HubClient,
        *,
        pages: PageServer | None,
        skills: frozenset[str] | None,
        timeout: float,
        budget: int | None,
        rng: random.Random,
    ) -> None:
        self._hub = hub
        self._pages = pages
        self._skills = skills
        self._timeout = timeout
        self._budget = budget
        self._rng = rng
        self._spent = 0
        self._id = secrets.token_hex(3)

    def runs(self, task: Task, repeat: int) -> Iterator[Run]:
        """Run a task ``repeat`` times; once, as skipped, if this fleet can't try it.

        Raises:
            HubError: the hub can't be reached, or refuses a job.
            KeyboardInterrupt: the running job was cancelled.
        """
        missing = self._missing(task)
        if missing is not None:
            yield Run(task.name, 1, Outcome.SKIPPED, missing)
            return
        for number in range(1, repeat + 1):
            yield self._run(task, number)

    def _missing(self, task: Task) -> str | None:
        """Return what the fleet lacks for a task, if anything."""
        skills = [] if self._skills is None else sorted(set(task.skills) - self._skills)
        if skills:
            return f"no worker has the skill {skills[0]}"
        return NEEDED if task.pages and self._pages is None else None

    def _run(self, task: Task, number: int) -> Run:
        if self._budget is not None and self._spent >= self._budget:
            return Run(task.name, number, Outcome.STOPPED, f"the budget of {self._budget:,} tokens is spent")
        address = "" if self._pages is None else self._pages.address()
        description, values, pages = task.made(self._rng, address)
        if self._pages is not None:
            self._pages.serve(address, pages)
        # The id is ours, so that a job can be cancelled even if Ctrl-C comes before the hub's answer.
        job_id = f"eval-{self._id}-{task.name[:30]}-{number}"
        stop = self._do(job_id, description, task)
        job = self._hub.get(f"/task/{job_id}")["job"]
        run = _counted(task, number, job)
        self._spent += run.tokens
        if stop is not None:
            return replace(run, outcome=stop.outcome, reason=str(stop))
        asked = frozenset[str]() if self._pages is None else self._pages.asked(address)
        found = failures(task.checks, values, _evidence(job, asked))
        return replace(run, outcome=Outcome.FAILED if found else Outcome.PASSED, reason="; ".join(found))

    def _do(self, job_id: str, description: str, task: Task) -> _Stop | None:
        """Submit a job, and wait for its end. Return why it was cancelled, if it was."""
        body: JsonObject = {"description": description, "timeout": self._timeout, "job_id": job_id}
        if not task.planned:
            body["skills"] = list(task.skills)
        try:
            self._hub.post("/task", body)
            follow(self._hub, job_id, lambda _: None, watch=self._watch)
        except _Stop as stop:
            self._cancel(job_id)
            return stop
        except KeyboardInterrupt:
            self._cancel(job_id)
            raise
        return None

    def _watch(self, job: JsonObject) -> None:
        """Stop a running job that nobody should wait for."""
        if self._budget is not None and self._spent + _tokens(job) > self._budget:
            raise _Stop(Outcome.STOPPED, f"the budget of {self._budget:,} tokens is spent")
        waiting = [one["tool"] for one in job.get("approvals", ()) if one["status"] == "waiting"]
        if waiting:
            raise _Stop(Outcome.SKIPPED, f"{waiting[0]} needs your approval on this fleet (PIBOT_APPROVE)")

    def _cancel(self, job_id: str) -> None:
        """Cancel a job if the hub has it.

        Raises:
            HubError: the hub can't be reached.
        """
        try:
            self._hub.post(f"/task/{quote(job_id, safe='')}/cancel")
        except HubError as exc:
            if exc.exit_code == UNREACHABLE:
                raise
            # The hub refuses it: the job was never accepted, or has just ended.


def _counted(task: Task, number: int, job: JsonObject) -> Run:
    usage = job["usage"]
    calls: dict[str, int] = {}
    for row in job.get("spending", ()):
        if row.get("model"):
            calls[row["model"]] = calls.get(row["model"], 0) + row["llm_calls"]
    return Run(
        task=task.name,
        number=number,
        outcome=Outcome.FAILED,
        answer=_answer(job)[:ANSWER_CHARS],
        job_id=job["job_id"],
        steps=len(job["subtasks"]),
        calls=usage["llm_calls"],
        tokens=_tokens(job),
        cost=job["cost"],
        seconds=max(0.0, (job["finished_at"] or job["created_at"]) - job["created_at"]),
        models=calls,
    )


def _tokens(job: JsonObject) -> int:
    """Return the job's tokens so far: before its end, the gateway's count knows more than the job's own."""
    counted: int = sum(row["total_tokens"] for row in job.get("spending", ()))
    return max(counted, int(job["usage"]["total_tokens"]))


def _answer(job: JsonObject) -> str:
    return "\n".join(text for text in (job["answer"], job["error"]) if text)


def _evidence(job: JsonObject, asked: frozenset[str]) -> Evidence:
    steps: list[Mapping[str, Any]] = job["subtasks"]
    results = [step["result"] for step in steps if step.get("result")]
    return Evidence(
        status=job["status"],
        answer=_answer(job),
        plan=[dict(step) for step in steps],
        data=[result["data"] for result in results],
        asked=asked,
    )
