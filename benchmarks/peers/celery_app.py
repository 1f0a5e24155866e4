"""Celery with Redis as broker and result backend."""

from __future__ import annotations

import os

from celery import Celery

URL = os.environ["BENCH_REDIS_URL"]
app = Celery("bench", broker=URL, backend=URL)
app.conf.update(broker_connection_retry_on_startup=True)


def _noop() -> str:
    return "done"


noop = app.task(_noop, name="noop")


def call() -> None:
    if noop.delay().get(timeout=30) != "done":
        raise RuntimeError("Celery gave an unexpected result")
