"""Start a worker under the guide's name: ``python -m pibot.worker_task_executor --port 5000 --worker-id worker-1``.

The guide is the integration guide that this project began with; its names keep working. The code is in
:mod:`pibot.worker`.
"""

from __future__ import annotations

import sys

from pibot.worker.executor import TaskExecutor
from pibot.worker.process import main, run_worker

__all__ = ["TaskExecutor", "main", "run_worker"]

if __name__ == "__main__":
    sys.exit(main())
