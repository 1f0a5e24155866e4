"""dramatiq with its Redis broker and Redis result backend."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

URL = os.environ["BENCH_REDIS_URL"]
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


def _noop() -> str:
    return "done"


noop = dramatiq.actor(_noop, actor_name="noop", store_results=True)


def call() -> None:
    if noop.send().get_result(block=True, timeout=30_000) != "done":
        raise RuntimeError("dramatiq gave an unexpected result")
