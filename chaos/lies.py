"""The lies of a worker that was taken over: whatever it may send to its hub, except what could be true.

A lie is a function from the request to the parts of an answer, which may have no end. :data:`LIES` holds all of them.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Callable

from pibot.contracts import ApprovalRequest, digest_of

MEGABYTE = 1024 * 1024

Parts = Iterator[bytes]
"""What is sent, part by part, until the hub closes the connection or it ends."""

IDLE: Mapping[str, Any] = {"uptime_seconds": 9.0, "current_task": None, "version": "1"}


@dataclass(frozen=True)
class Asked:
    """A request of the hub.

    Args:
        method, path: of its first line.
        body: its JSON, if any.
        worker_id: the worker that is asked.
    """

    method: str
    path: str
    body: Mapping[str, Any]
    worker_id: str = "worker-1"

    @property
    def about_worker(self) -> bool:
        """Whether it asks for the worker's state; any other request is about a task."""
        return self.path in ("/status", "/health")

    @property
    def task_id(self) -> str:
        return str(self.body.get("task_id") or self.path.split("/")[2])


Lie = Callable[[Asked], Parts]


def http(body: bytes, status: str = "200 OK", *more: str) -> bytes:
    """Make a whole answer with this body."""
    head = "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more))
    return head.encode() + b"\r\n\r\n" + body


def body_of(text: str | bytes, status: str = "200 OK") -> Lie:
    """Answer with this text as it is."""
    data = text if isinstance(text, bytes) else text.encode()
    return lambda _: iter([http(data, status)])


def json_of(body: Any, status: str = "200 OK") -> Lie:
    """Answer with this as JSON, as Python writes it."""
    return body_of(json.dumps(body), status)


def endless(head: bytes, part: bytes) -> Lie:
    """Send ``head``, then ``part`` again and again."""

    def parts(_: Asked) -> Parts:
        yield head
        while True:
            yield part

    return parts


def report(**changes: Any) -> Lie:
    """Report an idle worker with these changes; without any, tell the truth."""
    return lambda asked: json_of({"worker_id": asked.worker_id, **IDLE, **changes})(asked)


def result(**changes: Any) -> Lie:
    """Give a task's result with these changes."""

    def parts(asked: Asked) -> Parts:
        body = {
            "success": True,
            "task_id": asked.task_id,
            "worker_id": asked.worker_id,
            "status": "completed",
            "data": {},
            "output": "a lie",
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "llm_calls": 1},
            "steps": 1,
            "started_at": 1.0,
            "finished_at": 2.0,
        }
        yield http(json.dumps({**body, **changes}).encode())

    return parts


def calls(number: int, size: int = 5, **changes: Any) -> Lie:
    """Report so many calls that wait for approval, other ones each time."""
    counted = iter(range(10**9))

    def parts(asked: Asked) -> Parts:
        rows = []
        for _ in range(number):
            arguments = {"command": "x" * size}
            call = ApprovalRequest(str(next(counted)), "shell_exec", arguments, digest_of("shell_exec", arguments), 1.0)
            rows.append(call.to_json())
        body = {"success": True, "task_id": asked.task_id, "status": "running", "approvals": rows}
        yield http(json.dumps({**body, "approvals_asked": 1, "waited_seconds": 0, **changes}).encode(), "202 Accepted")

    return parts


@cache
def _bomb() -> bytes:
    return gzip.compress(bytes(MEGABYTE), 9) * 600  # its members unpack one after another


FLOODS: Mapping[str, Lie] = {
    "a body that unpacks to 600 MB": lambda _: iter([http(_bomb(), "200 OK", "Content-Encoding: gzip")]),
    "a body without an end": endless(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * MEGABYTE),
    "a body of a terabyte": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n", b" " * MEGABYTE),
    "chunks without an end": endless(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n" * 100_000),
    "a head without an end": endless(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n" * 100_000),
    "a line without an end": endless(b"HTTP/1.1 200 OK\r\na: ", b"b" * MEGABYTE),
    "interim answers without an end": endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000),
    "answers without an end": endless(b"", http(json.dumps(IDLE).encode()) * 1000),
    "another protocol without an end": endless(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", b"x" * MEGABYTE
    ),
    "a refusal of 3 MB": json_of({"success": False, "error": "x" * 3 * MEGABYTE}, "401 Unauthorized"),
    "the server's error of 3 MB": json_of({"success": False, "error": "x" * 3 * MEGABYTE}, "500 Oops"),
    "a length that is no number": body_of(b"\r\n\r\n", "200 OK\r\nContent-Length: -5"),
    "a redirect to itself": body_of(b"{}", "302 Found\r\nLocation: /status"),
}
"""To any request."""

NO_JSON: Mapping[str, Lie] = {
    "nesting": body_of("[" * 60_000),
    "objects in one another": body_of('{"a":' * 10_000),
    "closed nesting": body_of('{"data": ' + "[" * 5000 + "]" * 5000 + "}"),
    "a thousand lists": body_of('{"skills": [' + "[]," * 20_000 + "0]}"),
    "half a character": body_of('{"current_task": "\\ud83d", "version": "\\ud83d"}'),
    "a number of 60,000 digits": body_of('{"uptime_seconds": ' + "9" * 60_000 + "}"),
    "infinity": body_of('{"uptime_seconds": 1e400, "host": {"temperature_celsius": Infinity}}'),
    "no number": body_of('{"uptime_seconds": NaN, "host": {"load_1m": NaN}}'),
    "no UTF-8": body_of(b'{"version": "\xff\xfe"}'),
    "no object": body_of("[1]"),
    "nothing": body_of(""),
    "half a text": body_of('{"version": "' + "\\\\" * 30_000),
}
"""To any request."""

REPORTS: Mapping[str, Lie] = {
    "a version of 60 kB": report(version="9" * 60_000),
    "a task that can be none": report(current_task="\u202e" * 200),
    "a thousand skills": report(skills=[f"s{number}" for number in range(5000)]),
    "numbers that can't be": report(
        uptime_seconds=-1, host={"temperature_celsius": 1e300, "memory_available_bytes": -(10**18), "load_1m": -5}
    ),
    "types that can't be": report(skills="all", tasks=[1], host=[], version={}, current_task=7),
    "a thousand reasons": report(host={"throttled": ["throttled"] * 5000}),
}
"""To ``GET /status``."""

RESULTS: Mapping[str, Lie] = {
    "a result with half a character": result(output="\ud83d"),
    "a result with half a character in its data": result(data={"x": ["\ud83d"]}),
    "usage that can't be": result(usage={"prompt_tokens": 10**30}),
    "usage below nothing": result(usage={"llm_calls": -1}),
    "data nested too deeply": result(data=json.loads('{"a":' * 500 + "1" + "}" * 500)),
    "a date beyond all dates": result(started_at=10**20),
    "a date that is infinite": result(finished_at=float("inf")),
    "data that is no number": result(data={"x": float("nan")}),
    "another task's result": result(task_id="another"),
    "a state that there is not": result(status="glorious"),
    "a result that is none": result(status="running"),
    "an output that is no text": result(output=[1]),
    "steps that can't be": result(steps=10**25),
    "a result of 6 MB": result(output="x" * 6 * MEGABYTE),
    "an error of 3 MB": result(status="failed", error="x" * 3 * MEGABYTE),
    "3,000 calls": calls(3000),
    "33 calls": calls(33),
    "other calls each time": calls(32),
    "long calls each time": calls(8, 40_000),
    "a call asked for beyond all dates": calls(1, asked_at=10**400),
}
"""In answer to a task, each of which is a lost attempt."""

STILL_RUNNING = json_of({"success": True, "status": "running"}, "202 Accepted")
"""To a request for a result, at once: the worker was asked to wait for the task's end."""

BUSY = json_of({"success": False, "error": "busy", "status": "busy"}, "409 Conflict")
NO_SUCH_TASK = json_of({"success": False, "error": "no such task"}, "404 Not Found")


def of_worker(lie: Lie) -> Lie:
    """Tell this lie of the worker, which takes no task meanwhile."""

    def parts(asked: Asked) -> Parts:
        if asked.about_worker:
            return lie(asked)
        return (BUSY if asked.path == "/task" else NO_SUCH_TASK)(asked)

    return parts


def of_tasks(lie: Lie) -> Lie:
    """Tell this lie of every task, and the truth of the worker."""
    return lambda asked: (report() if asked.about_worker else lie)(asked)


LIES: Mapping[str, Lie] = {
    **FLOODS,
    **NO_JSON,
    **{name: of_worker(lie) for name, lie in REPORTS.items()},
    **{name: of_tasks(lie) for name, lie in RESULTS.items()},
    "a task that runs on and on": of_tasks(STILL_RUNNING),
}
"""Every lie, told in answer to whatever the hub asks."""
