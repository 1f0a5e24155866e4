"""huey with Redis. It notifies a waiting caller, which would poll by default."""

from __future__ import annotations

import os

from huey import RedisHuey

huey = RedisHuey("bench", url=os.environ["BENCH_REDIS_URL"], notify_result=True)


def _noop() -> str:
    return "done"


noop = huey.task(name="noop")(_noop)


def call() -> None:
    if noop().get(blocking=True, timeout=30) != "done":
        raise RuntimeError("huey gave an unexpected result")
