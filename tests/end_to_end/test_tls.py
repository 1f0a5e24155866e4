"""A fleet of processes with mutual TLS runs a job from end to end."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from pibot.tls import MASTER
from tests.support.certificates import Authority, Files
from tests.support.fleet import make_skills
from tests.support.processes import clean_environment, serving_process
from tests.support.scripted_llm import MODEL, ScriptedLLM, text

pytestmark = pytest.mark.system

KEY = "the-key-of-the-fleet"
TOKEN = "the-token-of-worker-1"


def get(port: int, files: Files, *, shown: bool) -> int:
    context = files.context(shown=shown)
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status
    finally:
        connection.close()


def pibot(directory: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pibot", *arguments]
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def test_a_fleet_over_tls_does_a_job_and_refuses_other_clients(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    master, worker_1, worker_2 = (authority.certify(name) for name in (MASTER, "worker-1", "worker-2"))
    make_skills(tmp_path / "hub" / "skills")
    model = ScriptedLLM()
    model.enqueue(text("forty-two"))
    hub_environment = clean_environment(
        **model.environ(), **master.environ(), PIBOT_API_KEY=KEY, WORKER_1_TOKEN=TOKEN, PIBOT_LEASE_SECONDS="10"
    )
    with (
        model,
        serving_process(
            tmp_path / "hub",
            ["-m", "pibot", "hub", "--port", "0"],
            hub_environment,
            port_pattern=r"https://\S+?:(\d+)/",
        ) as hub,
    ):
        url = f"https://127.0.0.1:{hub.port}"
        # Like a provisioned worker, it has only its token, and reaches the model through the hub.
        worker_environment = clean_environment(
            **worker_1.environ(),
            PIBOT_API_KEY=TOKEN,
            VOLC_API_KEY=TOKEN,
            VOLC_BASE_URL=f"{url}/v1",
            PIBOT_HUB_URL=url,
            MODEL_NAME=MODEL,
        )
        arguments = ["-m", "pibot.worker_task_executor", "--port", "0", "--worker-id", "worker-1"]
        pattern = r"listen=https://\S+:(\d+)"
        with serving_process(tmp_path / "worker", arguments, worker_environment, port_pattern=pattern) as worker:
            asked = clean_environment(PIBOT_HUB_URL=url, PIBOT_API_KEY=KEY, PIBOT_TLS_CA=str(authority.ca))
            run = pibot(tmp_path, asked, "run", "--json", "--skills", "", "What is 6 * 7?")
            assert run.returncode == 0, run.stderr
            assert json.loads(run.stdout)["output"] == "forty-two"

            shown = pibot(tmp_path, asked, "status")
            assert re.search(rf"worker-1\s+idle\s+https://127.0.0.1:{worker.port}", shown.stdout), shown

            assert get(hub.port, master, shown=False) == 200
            assert get(worker.port, master, shown=True) == 200
            for files, shows in ((master, False), (worker_2, True)):
                with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                    get(worker.port, files, shown=shows)

            del asked["PIBOT_TLS_CA"]
            unbelieved = pibot(tmp_path, asked, "status")
            assert unbelieved.returncode == 3
            assert "set PIBOT_TLS_CA to the file of the fleet's CA" in unbelieved.stderr
