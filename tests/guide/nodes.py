"""The guide's three workers on one computer, with the rehearsal model, each a process of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Running, clean_environment, serving_process


@dataclass(frozen=True)
class Nodes:
    """What the guide's commands and scripts need; its master is the script that a test runs.

    Attributes:
        workers: worker-1 to worker-3.
        model: the rehearsal model.
        master: the environment of the master's scripts, as the guide's ``export`` lines set it.
        directory: holds a folder for each process.
    """

    workers: tuple[Running, ...]
    model: Running
    master: dict[str, str]
    directory: Path


def model_settings(model: Running) -> dict[str, str]:
    """Return the ``.env`` lines that point at the rehearsal model."""
    return {"VOLC_API_KEY": "rehearsal", "VOLC_BASE_URL": f"{model.url}/v1", "MODEL_NAME": "pibot-rehearsal-not-an-ai"}


@contextlib.contextmanager
def nodes(directory: Path) -> Iterator[Nodes]:
    """Run the workers and the model; each worker has its own folder with ``.env``, as in the guide."""
    with contextlib.ExitStack() as stack:
        model = stack.enter_context(
            serving_process(directory / "model", ["-m", "pibot", "rehearsal", "--port", "0"], clean_environment())
        )
        settings = model_settings(model)
        workers = []
        for number in (1, 2, 3):
            home = directory / f"worker-{number}"
            home.mkdir()
            dotenv = {**settings, "PIBOT_WEB_ALLOW": "127.0.0.0/8", "WORKER_ID": "unused"}
            (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in dotenv.items()))
            arguments = ["-m", "pibot.worker_task_executor", "--port", "0", "--worker-id", f"worker-{number}"]
            workers.append(stack.enter_context(serving_process(home, arguments, clean_environment())))
        addresses = {}
        for number, worker in enumerate(workers, 1):
            addresses[f"WORKER_{number}_IP"] = "127.0.0.1"
            addresses[f"WORKER_{number}_PORT"] = str(worker.port)
        yield Nodes(tuple(workers), model, clean_environment(**settings, **addresses), directory)
