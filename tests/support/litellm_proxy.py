"""LiteLLM's proxy with its mock answers, in an environment of its own: nobody of this project wrote it."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.installing import installed
from tests.support.processes import clean_environment

KEY = "sk-key-of-the-litellm-proxy"

ANSWER = "A kettle boils water."

COOLDOWN_SECONDS = 600
"""How long the proxy does not ask a model again that was rate-limited."""

PACED_SECONDS = 60
"""What the proxy asks for after more requests than a model may get in a minute."""

CALL = {"id": "call_abc", "type": "function", "function": {"name": "list_files", "arguments": '{"path": "."}'}}

THOUGHT = {
    "model": "gpt-4o-mini",
    "choices": [
        {
            "index": 0,
            "finish_reason": "length",
            "message": {"role": "assistant", "content": "A kettle", "reasoning_content": "Kettles are for water."},
        }
    ],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}

MODELS: list[tuple[str, dict[str, Any]]] = [
    ("answers", {"mock_response": ANSWER}),
    ("calls", {"mock_response": "", "mock_tool_calls": [CALL]}),
    ("thinks", {"mock_response": THOUGHT}),
    # Two of one name: the proxy lets a model rest only if it has another.
    ("limited", {"mock_response": "litellm.RateLimitError"}),
    ("limited", {"mock_response": "litellm.RateLimitError", "model": "openai/gpt-4o"}),
    ("paced", {"mock_response": ANSWER, "rpm": 0}),
    ("small", {"mock_response": "litellm.ContextWindowExceededError"}),
    ("broken", {"mock_response": "litellm.InternalServerError"}),
    ("overloaded", {"mock_response": "Exception: mock_streaming_error"}),
    ("filtered", {"mock_response": "Exception: content_filter_policy"}),
]
"""The proxy's models, and the mock answer of each."""

CONFIG = {
    "model_list": [
        {"model_name": name, "litellm_params": {"model": "openai/gpt-4o-mini", "api_key": "none", **mock}}
        for name, mock in MODELS
    ],
    "router_settings": {
        "num_retries": 0,
        "allowed_fails": 0,
        "cooldown_time": COOLDOWN_SECONDS,
        "optional_pre_call_checks": ["enforce_model_rate_limits"],
    },
    "litellm_settings": {"telemetry": False},
    "general_settings": {"master_key": KEY},
}

PROGRAM = """
import os, socket, sys, threading

def within(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and args[1][0] not in ("127.0.0.1", "::1"):
        raise ConnectionRefusedError(f"the tests give no way out to {args[1]}")
    if event == "socket.getaddrinfo" and args[0] not in (None, "localhost", "127.0.0.1", "::1"):
        raise socket.gaierror(f"the tests give no way out to {args[0]}")

sys.addaudithook(within)

import uvicorn
from litellm.proxy.proxy_server import app

class Server(uvicorn.Server):
    async def startup(self, sockets=None):
        await super().startup(sockets)
        print("serving", sockets[0].getsockname()[1], flush=True)
        sys.stdout = sys.stderr  # nobody reads on

def end_with_the_test():
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=end_with_the_test, daemon=True).start()
listening = socket.socket()
listening.bind(("127.0.0.1", 0))
Server(uvicorn.Config(app, loop="asyncio", access_log=False)).run([listening])
"""

ALONE = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False", "DO_NOT_TRACK": "1"}
"""Settings with which the proxy asks nobody for anything; :data:`PROGRAM` makes sure of that."""


@dataclass(frozen=True)
class LiteLLMProxy:
    """The running proxy.

    Args:
        url: the base URL for a client, ending in ``/v1``.
    """

    url: str
    key: str = KEY


@contextlib.contextmanager
def litellm_proxy(folder: Path) -> Iterator[LiteLLMProxy]:
    """Install the proxy if it is not there yet, and run it until the block ends.

    Where it can't be installed the test is skipped, and with ``CI`` set it fails.
    """
    python = installed("litellm")
    config = folder / "litellm.yaml"
    config.write_text(json.dumps(CONFIG))  # YAML too
    log = folder / "litellm.log"
    environment = clean_environment(**ALONE, CONFIG_FILE_PATH=str(config), HOME=str(folder))
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [str(python), "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
            cwd=folder,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = next((line for line in process.stdout if line.startswith("serving ")), "")
        found = re.match(r"serving (\d+)", told)
        assert found, f"LiteLLM's proxy did not start:\n{log.read_text(errors='replace')}"
        yield LiteLLMProxy(f"http://127.0.0.1:{found[1]}/v1")
    finally:
        process.stdin.close()
        process.kill()
        process.wait(30)
        process.stdout.close()
