"""``python -m benchmarks.peers.client celery``: the caller of one peer, controlled by the harness."""

from __future__ import annotations

import importlib
import sys

from benchmarks import protocol


def main() -> None:
    module = importlib.import_module(f"benchmarks.peers.{sys.argv[1]}_app")
    protocol.serve(module.call)


if __name__ == "__main__":
    main()
