"""``make chaos``: run a schedule of faults against a real fleet, let it settle, and check the outcome."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import secrets
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from chaos import runs
from chaos.clients import Accepted, Watcher, submit
from chaos.disk import Disk, small_disk
from chaos.evidence import Check, Evidence, check, read_database
from chaos.fleet import ChaosError, SupervisedFleet, until
from chaos.lies import LIES
from chaos.schedule import Fault, Schedule, draw

JOBS = 300
QUICK_JOBS = 30
SECONDS_A_JOB = 0.4
QUICK_SECONDS = 14.0
LEASE_SECONDS = 4.0
STALL_SECONDS = 90.0
"""Seconds without an ended job after the last fault until the run gives up."""

MEASURE_EVERY = 0.25
"""Seconds between two looks at the hub's memory."""

ORPHAN_SECONDS = 5.0
"""Seconds that the kernel gets to end the commands of a killed worker."""


@dataclass
class Report:
    """The figures of a run, for people."""

    faults: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)
    starts: dict[str, int] = field(default_factory=dict)
    hub_peak_mb: float = 0.0
    settled_after: float = 0.0
    gave_up: str = ""


class Chaos:
    """One run of a schedule.

    Args:
        schedule: the jobs and faults.
        folder: for everything that the run writes.
        deadline: seconds for the whole run, from the first job on.
        lease_seconds: the length of a lease.
    """

    def __init__(self, schedule: Schedule, folder: Path, *, deadline: float, lease_seconds: float) -> None:
        self._schedule = schedule
        self._folder = folder
        self._deadline = deadline
        self._lease_seconds = lease_seconds
        self._accepted = Accepted()
        self.report = Report()

    async def run(self) -> Evidence:
        """Start the fleet, apply the faults, let the fleet settle, and stop it.

        Raises:
            ChaosError: the run itself failed.
        """
        disk = small_disk(self._folder / "disk")
        try:
            fleet = SupervisedFleet(self._folder, self._folder / "disk", self._lease_seconds)
            print(f"The disk: {disk.how}. Commands: {fleet.sandbox}.", flush=True)
            try:
                await fleet.start()
                print("The fleet is up.", flush=True)
                watcher = await self._follow_schedule(fleet, disk)
                return await self._stop(fleet, watcher)
            finally:
                await fleet.destroy()
        finally:
            self._keep_database()
            disk.remove()

    async def _follow_schedule(self, fleet: SupervisedFleet, disk: Disk) -> Watcher:
        begin = time.monotonic()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session:
            watcher = Watcher(session, lambda: _address(fleet.hub.link.upstream))
            watching = asyncio.ensure_future(watcher.watch())
            measuring = asyncio.ensure_future(self._measure(fleet))
            url = f"http://127.0.0.1:{fleet.hub.link.port}"
            submitting = asyncio.ensure_future(
                _all(_later(job.at, submit(session, url, job, self._accepted)) for job in self._schedule.jobs)
            )
            try:
                await _all(_later(fault.at, self._apply(fault, fleet, disk)) for fault in self._schedule.faults)
                for link in fleet.all_links():
                    self.report.hits += link.done
                    link.heal()
                print(f"All faults are over after {time.monotonic() - begin:.0f} s; waiting for the jobs.", flush=True)
                await self._settle(watcher, submitting, begin)
            finally:
                await _cancelled(submitting, watching, measuring)
        self.report.settled_after = time.monotonic() - begin
        return watcher

    async def _measure(self, fleet: SupervisedFleet) -> None:
        """Note the hub's memory repeatedly, until cancelled: a hub that is killed takes its figure along."""
        while True:
            self.report.hub_peak_mb = max(self.report.hub_peak_mb, fleet.hub.peak_memory())
            await asyncio.sleep(MEASURE_EVERY)

    async def _apply(self, fault: Fault, fleet: SupervisedFleet, disk: Disk) -> None:
        self.report.faults[fault.kind] += 1
        service, link = fleet.services.get(fault.target), fleet.links.get(fault.target)
        if fault.kind == "disk-full":
            disk.fill(fleet.hub.pid)
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                disk.empty(fleet.hub.pid)
            return
        assert service is not None
        assert link is not None
        if fault.kind in ("kill", "kill-hub"):
            service.kill()
        elif fault.kind in ("stop", "stop-hub"):
            await service.pause(fault.seconds)
        elif fault.kind == "cut-request":
            link.cut_request(fault.share)
        elif fault.kind == "cut-answer":
            link.cut_answer(fault.share)
        elif fault.kind == "delay":
            link.delay(fault.seconds)
        elif fault.kind == "lie":
            await link.tell(LIES[fault.lie], fault.seconds)
        elif fault.kind == "sick":
            await fleet.ways_to_model[fault.target].refuse(fault.seconds)
        else:
            await link.refuse(fault.seconds)

    async def _settle(self, watcher: Watcher, submitting: asyncio.Future[None], begin: float) -> None:
        """Wait until every job is accepted and has ended; give up after a stall or the deadline."""
        last_change, known = time.monotonic(), -1
        while True:
            await watcher.look()
            now = time.monotonic()
            if submitting.done() and self._accepted.jobs.keys() <= watcher.ended.keys():
                return
            if len(watcher.ended) + len(self._accepted.jobs) != known:
                last_change, known = now, len(watcher.ended) + len(self._accepted.jobs)
            if now - last_change > STALL_SECONDS:
                self.report.gave_up = f"no job has ended for {STALL_SECONDS:g} s"
                return
            if now - begin > self._deadline:
                self.report.gave_up = f"the run has taken {self._deadline:g} s"
                return
            await asyncio.sleep(0.3)

    async def _stop(self, fleet: SupervisedFleet, watcher: Watcher) -> Evidence:
        await until(lambda: not fleet.orphans(), ORPHAN_SECONDS)
        orphans = fleet.orphans()
        self.report.starts = {name: service.starts for name, service in fleet.services.items()}
        await fleet.stop()
        try:
            rows = read_database(self._folder / "disk" / "jobs.db")
        except sqlite3.Error as exc:
            raise ChaosError(f"the job database can't be read after the run: {exc}") from exc
        logs = {name: service.log.read_text("utf-8", "replace") for name, service in fleet.services.items()}
        return Evidence(
            accepted=sorted(self._accepted.jobs),
            refused=self._accepted.refused,
            seen=watcher.ended,
            runs=runs.read(fleet.runs),
            hub_peak_mb=self.report.hub_peak_mb,
            orphans=orphans + fleet.orphans(),
            logs=logs,
            **rows,
        )

    def _keep_database(self) -> None:
        """Copy the database next to the logs, to examine a failed run: the small disk is removed."""
        (self._folder / "database").mkdir()
        for path in (self._folder / "disk").glob("*.db*"):
            with contextlib.suppress(OSError):
                shutil.copy2(path, self._folder / "database" / path.name)

    def lines(self, evidence: Evidence, checks: list[Check]) -> list[str]:
        """Return the report's lines."""
        report = self.report
        late = sum(row["late_result"] is not None for row in evidence.attempts)
        failovers = sum(row["number"] > 1 for row in evidence.attempts)
        workers = sum(n - 1 for name, n in report.starts.items() if name.startswith("worker"))
        rows = [
            ("faults", _listed(report.faults)),
            ("connections hit", _listed(report.hits)),
            ("submitted again", _listed(self._accepted.resent)),
            ("restarts", f"hub {report.starts['hub'] - 1}, workers {workers}"),
            ("attempts", f"{len(evidence.attempts)} for {len(evidence.steps)} steps; {failovers} failovers"),
            ("late results", f"{late} recorded as evidence"),
            (
                "all ended after",
                f"{report.settled_after:.0f} s" + (f" (gave up: {report.gave_up})" * bool(report.gave_up)),
            ),
            ("", ""),
            *((f"{'FAILED' if item.wrong else 'ok':6} {item.title}", item.count) for item in checks),
        ]
        width = max(len(title) for title, _ in rows)
        return [f"{title:{width}}  {count}".rstrip() for title, count in rows]


def main(argv: list[str] | None = None) -> int:
    """Run from the command line; 0 if every check holds, 1 if not, 2 if the run failed, 130 on Ctrl-C."""
    arguments = _parser().parse_args(argv)
    jobs = arguments.jobs or (QUICK_JOBS if arguments.quick else JOBS)
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else jobs * SECONDS_A_JOB)
    seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    schedule = draw(seed, jobs, seconds=seconds, lease_seconds=LEASE_SECONDS)
    print(f"SEED={seed} JOBS={jobs}: {len(schedule.faults)} faults in {seconds:g} s", flush=True)
    if arguments.show:
        print(*schedule.lines(), sep="\n")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="pibot-chaos-"))
    chaos = Chaos(schedule, folder, deadline=arguments.deadline, lease_seconds=LEASE_SECONDS)
    keep = True
    try:
        evidence = asyncio.run(_until_signal(chaos.run()))
        checks = check(evidence)
        print("", *chaos.lines(evidence, checks), sep="\n")
        wrong = [f"{item.title}: {sentence}" for item in checks for sentence in item.wrong]
        for sentence in wrong[:40]:
            print(f"- {sentence}")
        keep = bool(wrong)
        if wrong:
            print(f"\n{len(wrong)} violations. Repeat with: {_again(arguments, seed, jobs)}")
        return 1 if wrong else 0
    except ChaosError as exc:
        print(f"chaos: {exc}", file=sys.stderr)
        return 2
    except asyncio.CancelledError:
        keep = False
        print("chaos: interrupted; all its processes have ended", file=sys.stderr)
        return 130
    finally:
        if keep:
            print(f"Logs and database: {folder}")
        else:
            shutil.rmtree(folder)


def _again(arguments: argparse.Namespace, seed: int, jobs: int) -> str:
    more = " --quick" * arguments.quick + (f" --seconds {arguments.seconds:g}" if arguments.seconds else "")
    return f"make chaos SEED={seed} JOBS={jobs}" + (f' ARGS="{more.strip()}"' if more else "")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="draw the schedule from this number (default: a new one, printed)")
    parser.add_argument("--jobs", type=int, help=f"number of jobs (default: {JOBS})")
    parser.add_argument("--seconds", type=float, help=f"seconds of faults (default: {SECONDS_A_JOB} for each job)")
    parser.add_argument(
        "--deadline", type=float, default=900.0, help="seconds that the whole run may take (default: 900)"
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_JOBS} jobs in {QUICK_SECONDS:g} s")
    parser.add_argument("--show", action="store_true", help="print the schedule, and run nothing")
    return parser


async def _until_signal(work: Coroutine[Any, Any, Evidence]) -> Evidence:
    """Await ``work``, and cancel it on SIGINT or SIGTERM. A second signal does not interrupt the clean-up."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    cancelling = False

    def interrupt() -> None:
        nonlocal cancelling
        if not cancelling:
            cancelling = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    return await task


async def _later(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        work.close()
        raise
    await work


async def _all(works: Any) -> None:
    """Await all in parallel. If one fails or this is cancelled, cancel the others."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _cancelled(*tasks)


async def _cancelled(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _address(port: int | None) -> str | None:
    return None if port is None else f"http://127.0.0.1:{port}"


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(counter.items())) or "none"
