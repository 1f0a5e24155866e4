"""``make bench``: measure PiBot and other task queues in one run, print the tables and write results.md."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import report, scale_report
from benchmarks.measure import QUICK, Bench, Effort
from benchmarks.processes import BenchmarkError, Processes
from benchmarks.redis_server import RedisServer
from benchmarks.systems import PEERS_PYTHON, ROOT

PHASES = ("calls", "workers", "guide", "jobs", "results", "scale")
RESULTS = Path(__file__).with_name("results.md")


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; 0, 1 if ``--check`` finds a missed budget, 2 if the run failed, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        return _run(arguments)
    except BenchmarkError as exc:
        print(f"bench: {exc}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted; all its processes have ended", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure roughly, in about three minutes, and write no results"
    )
    parser.add_argument("--check", action="store_true", help="exit with 1 if a budget is missed")
    parser.add_argument("--no-peers", action="store_true", help="measure PiBot alone")
    parser.add_argument("--only", choices=PHASES, action="append", help="run only this phase (may be repeated)")
    parser.add_argument("--output", type=Path, help="write the results to this file (default: benchmarks/results.md)")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    phases = arguments.only or PHASES
    load_before = os.getloadavg()[0]
    # On the disk of the checkout: a temporary folder may be in memory, where syncing costs nothing.
    cache = ROOT / ".cache"
    cache.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache) as name:
        folder = Path(name)
        without_peers = "--no-peers" if arguments.no_peers else _why_no_peers()
        with Processes(folder) as processes:
            redis = None if without_peers else RedisServer(processes, folder)
            bench = Bench(folder, redis, QUICK if arguments.quick else Effort(), lambda line: print(line, flush=True))
            for phase in phases:
                getattr(bench, phase)()
    note = f"The peers were not measured: {without_peers}." if without_peers else ""
    print("", *report.table(bench.figures), "", *scale_report.tables(bench.figures), note, sep="\n")
    output = arguments.output or (None if arguments.quick or arguments.only else RESULTS)
    if output is not None:
        command = " ".join(["make bench" if not sys.argv[1:] else "python -m benchmarks", *sys.argv[1:]])
        text = report.document(bench.figures, load_before=load_before, command=command, note=note)
        output.write_text(text, "utf-8")
        print(f"Written to {output}")
    missed = report.missed(bench.figures)
    for title in missed:
        print(f"budget missed: {title}")
    return 1 if missed and arguments.check else 0


def _why_no_peers() -> str:
    """Make the peers' environment if it is missing; return why they can't be measured, or an empty text."""
    if not RedisServer.installed():
        return "redis-server is not installed (Debian's package redis-server)"
    made = subprocess.run(["scripts/bootstrap.sh", "bench", PEERS_PYTHON.parent.parent.name], cwd=ROOT, check=False)  # nosec B603 B607 # a script of this repository
    return "" if made.returncode == 0 else "their environment .venv-bench could not be made; see above"


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
