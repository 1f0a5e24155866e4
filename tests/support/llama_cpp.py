"""llama.cpp's own server with a tiny model, in an environment of its own: nobody of this project wrote it."""

from __future__ import annotations

import contextlib
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.installing import installed
from tests.support.processes import clean_environment
from tests.support.tiny_model import write_tiny_model

LONGEST_ANSWER = 48
"""Tokens of an answer."""

PROGRAM = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.model_alias = sys.argv[1], {"tiny"}
params.n_ctx, params.n_predict, params.n_parallel = int(sys.argv[2]), int(sys.argv[3]), 1
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
params.warmup, params.port, params.api_keys = False, 0, [sys.argv[4]]
server = xllamacpp.Server(params)
print("serving", server.listening_address, flush=True)
sys.stdin.read()
"""

KEY = "key-of-the-llama-server"


@dataclass(frozen=True)
class LlamaServer:
    """The running server.

    Args:
        url: the base URL for a client, ending in ``/v1``.
        window: tokens that a prompt and its answer may have.
    """

    url: str
    window: int
    key: str = KEY
    model: str = "tiny"


@contextlib.contextmanager
def llama_server(folder: Path, *, window: int = 8192) -> Iterator[LlamaServer]:
    """Install the server if it is not there yet, and run it until the block ends.

    Where it can't be installed the test is skipped, and with ``CI`` set it fails.
    """
    python = installed("llama")
    model = folder / "tiny.gguf"
    write_tiny_model(model, window=window)
    argv = [str(python), "-c", PROGRAM, str(model), str(window), str(LONGEST_ANSWER), KEY]
    log = folder / "llama.log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env=clean_environment(), text=True
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = next((line for line in process.stdout if line.startswith("serving ")), "")
        found = re.match(r"serving (http://\S+)", told)
        assert found, f"llama.cpp did not start:\n{log.read_text(errors='replace')}"
        yield LlamaServer(f"{found[1]}/v1", window)
    finally:
        process.stdin.close()
        process.kill()
        process.wait(30)
        process.stdout.close()
