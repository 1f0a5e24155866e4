"""Run many workers in one process: their HTTP API over real sockets, with tasks that end at once.

``python -m benchmarks.light_workers 300`` prints the ports as a JSON list, and serves until it is terminated. Use it to
measure the hub with more workers than this machine could run.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from pibot import __version__
from pibot.contracts import TaskResult, TaskState
from pibot.host import read_host

HEADER_END = b"\r\n\r\n"


class LightWorker:
    """One worker.

    Args:
        worker_id: its name.
        host: the ``host`` part of its status.
    """

    def __init__(self, worker_id: str, host: dict[str, Any]) -> None:
        self._worker_id = worker_id
        self._host = host

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON for one request."""
        if path == "/health":
            return 200, {"status": "healthy", "worker_id": self._worker_id, "current_task": None}
        if path == "/status":
            return 200, self._status()
        if method == "POST" and path == "/task":
            now = time.time()
            task_id = json.loads(body)["task_id"]
            result = TaskResult(
                task_id, self._worker_id, TaskState.COMPLETED, output="done", started_at=now, finished_at=now
            )
            return 200, dict(result.to_json())
        return 404, {"success": False, "error": f"no such task: tasks end with the request that starts them ({path})"}

    def _status(self) -> dict[str, Any]:
        return {
            "worker_id": self._worker_id,
            "version": __version__,
            "uptime_seconds": 60.0,
            "current_task": None,
            "tasks": {},
            "skills": [],
            "model": "none",
            "sandbox": "off",
            "host": self._host,
        }


class _Connection(asyncio.Protocol):
    """Reads requests that have a Content-Length one after the other, and answers each at once."""

    def __init__(self, worker: LightWorker) -> None:
        self._worker = worker
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while HEADER_END in self._buffer:
            head, _, rest = self._buffer.partition(HEADER_END)
            lines = head.decode("latin-1").split("\r\n")
            fields = dict(line.lower().split(": ", 1) for line in lines[1:])
            length = int(fields.get("content-length", 0))
            if len(rest) < length:
                return
            self._buffer = rest[length:]
            method, path, _ = lines[0].split(" ")
            status, answer = self._worker.answer(method, path, rest[:length])
            text = json.dumps(answer).encode()
            self._transport.write(
                f"HTTP/1.1 {status} Answer\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(text)}\r\n\r\n".encode()
                + text
            )


async def serve(count: int) -> None:
    """Serve workers named worker-1 to worker-``count`` until cancelled."""
    loop = asyncio.get_running_loop()
    host = read_host().to_json()
    ports = []
    for number in range(1, count + 1):
        worker = LightWorker(f"worker-{number}", host)
        server = await loop.create_server(lambda worker=worker: _Connection(worker), "127.0.0.1", 0)  # type: ignore[misc]
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
