"""Run the real worker process (executor, HTTP API, server, loop, log) with an agent that returns at once.

``python -m benchmarks.noop_worker --port 5001 --worker-id worker-1``
"""

from __future__ import annotations

import argparse

from pibot import logs, web
from pibot.background import BackgroundLoop
from pibot.contracts import AgentOutcome, TaskRequest, TaskState
from pibot.settings import Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.api import create_worker_app
from pibot.worker_task_executor import TaskExecutor


class NoopAgent:
    """Completes every task without doing anything."""

    async def run(self, request: TaskRequest) -> AgentOutcome:
        return AgentOutcome(TaskState.COMPLETED, output="done")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--worker-id", required=True)
    arguments = parser.parse_args()
    settings = Settings.load().replace(worker_id=arguments.worker_id)
    logs.configure("worker", settings.log_dir)
    library = SkillLibrary(settings.skills_dir)
    loop = BackgroundLoop()
    executor = TaskExecutor(settings.worker_id, lambda request: NoopAgent(), loop)
    app = create_worker_app(executor, library, settings)
    web.serve(app, host="127.0.0.1", port=arguments.port, stop=lambda: executor.stop(settings.stop_grace))
    loop.stop()


if __name__ == "__main__":
    main()
