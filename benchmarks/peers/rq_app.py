"""RQ. The caller waits on the result's stream, the fastest way that RQ has."""

from __future__ import annotations

import os

from redis import Redis
from rq import Queue
from rq.results import Result

connection = Redis.from_url(os.environ["BENCH_REDIS_URL"])
queue = Queue("bench", connection=connection)


def noop() -> str:
    return "done"


def call() -> None:
    result = queue.enqueue(noop).latest_result(timeout=30)
    if result is None or result.type is not Result.Type.SUCCESSFUL or result.return_value != "done":
        raise RuntimeError("RQ gave an unexpected result")
