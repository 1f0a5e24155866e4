"""The worker's HTTP API: a Flask app over a :class:`~pibot.worker.executor.TaskExecutor`."""

from __future__ import annotations

import time
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, cast

from flask import Response, request

from pibot import __version__
from pibot.contracts import Decision, TaskRequest, TaskResult, UnfinishedTask, WorkerHealth, WorkerReport
from pibot.contracts.proofs import JOIN_HEADER, NONCE_HEADER, PROOF_HEADER
from pibot.errors import InvalidRequest
from pibot.host import read_host
from pibot.settings import Settings
from pibot.web import Buckets, KeyGuesses, KeyRing, WaitingRoom, answer, create_app, json_body, wait_preference
from pibot.worker.workspace import WorkspaceWatch

if TYPE_CHECKING:
    from flask import Flask

    from pibot.tool_registry import SkillLibrary
    from pibot.worker.executor import TaskExecutor
    from pibot.worker.proofs import AddressProofs

MAX_WAIT = 60.0
"""Seconds that one request may wait for a result; a caller that wants to wait longer asks again."""

# docs/decisions.md, D7
WAITING_PLACES = 6
"""How many of the server's 10 threads may wait; the others answer ``/health`` and take cancels."""

WRONG_KEYS_PER_MINUTE = 30
"""Limit for one address. A master with an old key polls 12 times a minute and must get its 401 each time."""


def create_worker_app(
    executor: TaskExecutor, library: SkillLibrary, settings: Settings, proofs: AddressProofs | None = None
) -> Flask:
    """Make the worker's app.

    Args:
        executor: runs the tasks.
        library: the skills that a task may name.
        settings: the keys, and what ``/status`` reports.
        proofs: of this worker's address; None for a worker that does not register.
    """
    app = create_app(
        __name__,
        keys=KeyRing.of_worker(settings),
        open_paths=("/health", "/openapi.json"),
        guesses=KeyGuesses(Buckets(WRONG_KEYS_PER_MINUTE)),
    )
    _add_task_routes(app, executor, library)
    _add_status_routes(app, executor, library, settings, proofs)
    return app


def _add_task_routes(app: Flask, executor: TaskExecutor, library: SkillLibrary) -> None:
    waiting = WaitingRoom(WAITING_PLACES)

    def result_or(task_id: str, status: str, seconds: float, asked: int | None) -> Response:
        """Wait up to ``seconds`` for the task's result; answer 202 with ``status`` if it still runs then."""
        result = waiting.wait(seconds, lambda limit: executor.wait(task_id, limit, asked=asked))
        headers = {"Preference-Applied": f"wait={seconds:.0f}"} if seconds else None
        if result is None:
            return answer(UnfinishedTask(task_id, status, executor.approvals(task_id)).to_json(), 202, headers)
        return answer(cast(TaskResult, result).to_json(), 200, headers)

    @app.post("/task")
    def submit() -> Response:
        task = TaskRequest.from_json(json_body())
        library.check(task.skills)
        executor.submit(task)
        seconds = wait_preference(MAX_WAIT)
        if seconds:
            return result_or(task.task_id, "accepted", seconds, 0)
        # docs/decisions.md, D5
        return answer(UnfinishedTask(task.task_id, "accepted").to_json(), 202)

    @app.post("/task/<task_id>/approvals/<approval_id>")
    def decide(task_id: str, approval_id: str) -> Response:
        decision = Decision.from_json(json_body())
        executor.decide(task_id, approval_id, decision)
        body = {"task_id": task_id, "approval_id": approval_id, "approved": decision.approved}
        return answer({"success": True, **body})

    @app.get("/task/<task_id>/result")
    def result(task_id: str) -> Response:
        return result_or(task_id, "running", wait_preference(MAX_WAIT), _asked())

    @app.post("/task/<task_id>/cancel")
    def cancel(task_id: str) -> Response:
        return answer(executor.cancel(task_id).to_json())


def _add_status_routes(
    app: Flask, executor: TaskExecutor, library: SkillLibrary, settings: Settings, proofs: AddressProofs | None
) -> None:
    started = time.monotonic()
    workspace = WorkspaceWatch(settings.workspace_dir)

    @app.get("/health")
    def health() -> Response:
        proof = proofs and proofs.answer(
            request.headers.get(JOIN_HEADER), request.headers.get(NONCE_HEADER), request.host, request.scheme
        )
        body = WorkerHealth(executor.worker_id, executor.current_task).to_json()
        return answer(body, headers={PROOF_HEADER: proof} if proof else None)

    @app.get("/status")
    def status() -> Response:
        report = WorkerReport(
            worker_id=executor.worker_id,
            version=__version__,
            uptime=time.monotonic() - started,
            current_task=executor.current_task,
            tasks={state.value: number for state, number in executor.ended().items()},
            skills=frozenset(library.names()),
            model=settings.llm.model,
            sandbox=settings.sandbox,
            host=read_host(),
            problem=workspace.problem(),
        )
        return answer(report.to_json())

    @app.get("/metrics")
    def metrics() -> Response:
        from pibot.worker.metrics import worker_metrics

        text = worker_metrics(executor.worker_id, executor.current_task is not None, executor.ended(), read_host())
        return Response(text, content_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json")
    def openapi() -> Response:
        return Response(_openapi(), mimetype="application/json")


def _asked() -> int | None:
    """Read ``?asked=``: how many of the task's pending tool calls the caller knows of; None for all."""
    value = request.args.get("asked")
    if value is None:
        return None
    if not value.isascii() or not value.isdigit() or len(value) > 9:
        raise InvalidRequest("asked must be a whole number", field="asked")
    return int(value)


@cache
def _openapi() -> str:
    return files("pibot.worker").joinpath("openapi.json").read_text("utf-8")
