"""The protocol between the harness and a client process: one JSON object a line, requests on stdin, answers on stdout.

Uses only the standard library, since the peers' clients run in an environment without PiBot.

Requests: ``{"op": "calls", "count": n, "seconds": s}``, answered with ``{"seconds": [one a call]}``, and
``{"op": "load", "callers": n, "seconds": s}``, answered with ``{"calls": n, "seconds": s}``.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Callable

Call = Callable[[], None]
"""Submits one task, waits for its result, and raises if it did not succeed."""


def requests() -> Iterator[dict[str, Any]]:
    """Yield the harness's requests until it closes the pipe."""
    for line in sys.stdin:
        yield json.loads(line)


def answer(**fields: Any) -> None:
    """Send one answer."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def serve(call: Call) -> None:
    """Answer the harness's requests by means of a blocking ``call``, with one thread a caller."""
    for request in requests():
        if request["op"] == "calls":
            answer(seconds=one_after_another(call, request["count"], request["seconds"]))
        else:
            calls, seconds = side_by_side(call, request["callers"], request["seconds"])
            answer(calls=calls, seconds=seconds)


def one_after_another(call: Call, count: int, seconds: float) -> list[float]:
    """Time at least one and up to ``count`` consecutive calls; start none after ``seconds``."""
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < count:
        before = time.perf_counter()
        if taken and before >= end:
            break
        call()
        taken.append(time.perf_counter() - before)
    return taken


def side_by_side(call: Call, callers: int, seconds: float) -> tuple[int, float]:
    """Call from ``callers`` threads for ``seconds``; return the number of calls and the seconds they took."""
    counts = [0] * callers
    failures: list[BaseException] = []
    together = threading.Barrier(callers + 1)

    def caller(number: int) -> None:
        together.wait()
        end = time.perf_counter() + seconds
        try:
            while time.perf_counter() < end:
                call()
                counts[number] += 1
        except BaseException as exc:
            failures.append(exc)
            raise

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    together.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    taken = time.perf_counter() - begin
    if failures:
        raise failures[0]
    return sum(counts), taken
