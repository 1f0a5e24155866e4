"""A model that calls one tool a number of times, then answers: for the memory and time of tasks with long results.

``python -m benchmarks.calling_model --port 5001 --calls 20``. A task's description is the size that each call asks for,
in characters.
"""

from __future__ import annotations

import argparse
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SKILL = "long_results"

PAGE = f"---\nname: {SKILL}\ndescription: Gives a text of the size that is asked for.\n---\n\nUse it.\n"

TOOLS = '''"""One tool: a text of some size."""


def give(size: int, number: int) -> str:
    """Give a text.

    Args:
        size: its characters.
        number: of the call.
    """
    line = f"line of text number {number} with some words in it\\n"
    return (line * (size // len(line) + 1))[:size]
'''


def answer(body: dict[str, Any], calls: int) -> dict[str, Any]:
    """Return the completion for a request: a tool call, or the final answer behind the last one."""
    messages = body["messages"]
    made = sum(1 for message in messages if message["role"] == "tool")
    size = int(messages[1]["content"].split()[0])
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if made < calls and body.get("tools"):
        arguments = json.dumps({"size": size, "number": made + 1})
        function = {"name": "give", "arguments": arguments}
        message["tool_calls"] = [{"id": f"call{made:05}", "type": "function", "function": function}]
    else:
        message["content"] = json.dumps({"success": True, "data": {}, "output": f"{made} results"})
    characters = len(json.dumps(messages, ensure_ascii=False))
    usage = {"prompt_tokens": characters // 4, "completion_tokens": 20, "total_tokens": characters // 4 + 20}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls" if "tool_calls" in message else "stop"}
    return {"id": "bench", "object": "chat.completion", "model": "bench", "choices": [choice], "usage": usage}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--calls", type=int, required=True)
    arguments = parser.parse_args()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            self._send({"status": "healthy"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(answer(body, arguments.calls))

        def log_message(self, format: str, *arguments: object) -> None:
            """Log nothing: the benchmark reads the log of a failure only."""

        def _send(self, value: dict[str, Any]) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    ThreadingHTTPServer(("127.0.0.1", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
