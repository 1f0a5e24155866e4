"""Poses as worker-3 on port 5000, and lies to its master. Runs on that host, with the standard library alone.

It tells each lie once: one for each of the first tasks, then one of itself. Before and afterwards it says that it is
idle, and that it is busy when it gets a task. ``GET /told?number=2`` waits until so many lies are told.
"""

from __future__ import annotations

import gzip
import http.server
import json
import os
import sys
import threading
from typing import ClassVar

BOMB = gzip.compress(bytes(2**20), 9) * 600
"""600 kB that unpack to 600 MB: each member holds one."""

IDLE = {"worker_id": "worker-3", "uptime_seconds": 9.0, "current_task": None, "version": "1"}
RESULT = {"success": True, "task_id": "another", "worker_id": "worker-3", "status": "completed", "output": "a lie"}

TASK_LIES = {
    "a result of 600 MB": BOMB,
    "another task's result": json.dumps({**RESULT, "data": {}, "started_at": 1.0, "finished_at": 2.0}).encode(),
}
STATUS_LIES = {
    "a state of 600 MB": BOMB,
}


class Liar(http.server.BaseHTTPRequestHandler):
    """Answers one connection of the master."""

    protocol_version = "HTTP/1.1"
    told: ClassVar[list[str]] = []
    changed = threading.Condition()

    def do_GET(self) -> None:
        """Give the worker's state."""
        path, _, number = self.path.partition("?number=")
        if path == "/told":
            with self.changed:
                self.changed.wait_for(lambda: len(self.told) >= int(number))
            self._answer(json.dumps(self.told).encode())
        elif path == "/health":
            self._answer(b'{"status": "healthy", "worker_id": "worker-3", "current_task": null}')
        elif path == "/status":
            # Not before all lies about tasks, since a worker that lies of itself counts as offline and gets none.
            lie = self._next(STATUS_LIES) if set(TASK_LIES) <= set(self.told) else None
            self._answer(lie or json.dumps(IDLE).encode())
        else:
            self._answer(b'{"success": false, "error": "no such task"}', 404)

    def do_POST(self) -> None:
        """Take a task and have its result at once."""
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        lie = self._next(TASK_LIES)
        if lie is None:
            self._answer(b'{"success": false, "error": "busy", "status": "busy"}', 409)
        else:
            self._answer(lie)

    def _next(self, lies: dict[str, bytes]) -> bytes | None:
        with self.changed:
            left = [name for name in lies if name not in self.told]
            if not left:
                return None
            self.told.append(left[0])
            self.changed.notify_all()
            return lies[left[0]]

    def _answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if body is BOMB:
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    server = http.server.ThreadingHTTPServer(("", int(sys.argv[1]) if sys.argv[1:] else 5000), Liar)
    if os.fork():  # it listens now, which a unit of Type=forking tells systemd in this way
        os._exit(0)
    server.serve_forever()
