"""A model that asks for the tool calls that take most memory, and the page that they fetch, on 127.0.0.1:5080.

It runs on a worker's host, with the standard library alone. Each answer but the first has sixteen calls; a task whose
text says "at once" gets the last of them only. A page is whole only when
as many are asked for as can be, so that their bodies are in memory at once.
"""

from __future__ import annotations

import http.server
import json
import os
import threading
from typing import ClassVar

PORT = 5080
URL = f"http://127.0.0.1:{PORT}/page"
MB = 2**20
# One character beyond the others makes Python take four bytes for each.
PAGE = ("\U0001f600".encode() + b"<p>" + b"a" * 2 * MB)[: 2 * MB]

FETCH = ("web_fetch", {"url": URL, "max_chars": 18_000})
SEARCH = ("search_files", {"text": "no such text"})
HOARD = ("hoard", {})
ANSWERS = [
    [("shell_exec", {"command": f"head -c {4 * MB} /dev/zero | tr '\\0' x >big.txt"})],
    [FETCH] * 16,
    [SEARCH] * 16,
    [FETCH, SEARCH, HOARD, HOARD] * 4,
]


class Hungry(http.server.BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[int] = 0
    changed = threading.Condition()

    def do_GET(self) -> None:
        """Send the page, and its last byte when no other request has come for a moment."""
        self._head("text/html", len(PAGE))
        self.wfile.write(PAGE[:-1])
        with self.changed:
            type(self).asked += 1
            self.changed.notify_all()
            while self.changed.wait(0.3):
                pass
        self.wfile.write(PAGE[-1:])

    def do_POST(self) -> None:
        """Ask for the next calls. The final answer says how many had which result."""
        messages = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"]
        said = sum(message["role"] == "assistant" for message in messages)
        answers = ANSWERS[-1:] if "at once" in json.dumps(messages) else ANSWERS
        if said < len(answers):
            calls = [
                {
                    "id": f"call-{said}-{n}",
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(args)},
                }
                for n, (name, args) in enumerate(answers[said])
            ]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
        else:
            results = [str(message["content"]) for message in messages if message["role"] == "tool"]
            words = {"exit code: 0": 0, "the text was cut": 0, "nothing found": 0, "hoarded": 0}
            found = {word: sum(word in result for result in results) for word in words}
            message = {"role": "assistant", "content": json.dumps({"success": True, "data": found, "output": "done"})}
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if said < len(answers) else "stop"}
        body = json.dumps({"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})
        self._head("application/json", len(body))
        self.wfile.write(body.encode())

    def _head(self, kind: str, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class Server(http.server.ThreadingHTTPServer):
    """Takes sixteen connections at once."""

    request_queue_size = 64


if __name__ == "__main__":
    server = Server(("127.0.0.1", PORT), Hungry)
    if os.fork():  # it listens now, which a unit of Type=forking tells systemd in this way
        os._exit(0)
    server.serve_forever()
