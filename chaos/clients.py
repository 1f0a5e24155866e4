"""The hub's callers: one submits the jobs, one watches them end."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Callable

import aiohttp

from chaos.schedule import ChaosJob

ENDED = frozenset({"completed", "failed", "cancelled"})
WATCH_EVERY = 1.5
"""Seconds between two looks for ended jobs."""

PAGE = 200
"""Jobs in one answer of the hub."""

Url = Callable[[], "str | None"]


@dataclass
class Accepted:
    """The hub's answers to the submitted jobs.

    Attributes:
        jobs: the accepted jobs, answered 202.
        resent: how often a job was submitted again, by the reason.
        refused: the jobs that the hub refused for good, with its answer.
    """

    jobs: dict[str, ChaosJob] = field(default_factory=dict)
    resent: Counter[str] = field(default_factory=Counter)
    refused: dict[str, str] = field(default_factory=dict)


async def submit(session: aiohttp.ClientSession, url: str, job: ChaosJob, accepted: Accepted) -> None:
    """Submit a job under the same id until the hub accepts or refuses it, as a careful caller does.

    Args:
        url: the hub's, through its link.
        accepted: records the answer.
    """
    wait = 0.1
    while True:
        try:
            async with session.post(f"{url}/task", json=job.body(), timeout=aiohttp.ClientTimeout(10)) as response:
                body = await response.text()
                if response.status in (200, 202):
                    json.loads(body)  # fails if the answer was cut
                    accepted.jobs[job.job_id] = job
                    return
                if response.status < 500 and response.status != 429:
                    accepted.refused[job.job_id] = f"{response.status} {body[:200]}"
                    return
                accepted.resent[f"answered {response.status}"] += 1
                wait = max(wait, _retry_after(response.headers.get("Retry-After")))
        except (aiohttp.ClientError, OSError, ValueError):
            accepted.resent["no whole answer"] += 1
        except asyncio.TimeoutError:
            accepted.resent["no answer in time"] += 1
        await asyncio.sleep(wait)
        wait = min(1.0, wait * 2)


def _retry_after(value: str | None) -> float:
    return min(2.0, float(value)) if value is not None and value.isdigit() else 0.0


class Watcher:
    """Record each job's record when it ends, so that :mod:`chaos.evidence` can check that it never changes again.

    Args:
        url: returns the hub's own address, not that of its link; None while it is down.

    Attributes:
        ended: by job id, the record that ``GET /task/<id>`` answered.
    """

    def __init__(self, session: aiohttp.ClientSession, url: Url) -> None:
        self.ended: dict[str, dict[str, Any]] = {}
        self._session = session
        self._url = url

    async def watch(self) -> None:
        """Look for ended jobs repeatedly, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(WATCH_EVERY)

    async def look(self) -> None:
        """Look for ended jobs once. If the hub is down or does not answer, the next look finds them."""
        try:
            for job_id in await self._newly_ended():
                body = await self._get(f"/task/{job_id}")
                if body is not None and body["job"]["status"] in ENDED:
                    self.ended[job_id] = body["job"]
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, ValueError):
            return

    async def _newly_ended(self) -> list[str]:
        found: list[str] = []
        before = ""
        while True:
            page = await self._get(f"/tasks?limit={PAGE}{before}")
            if page is None:
                return found
            rows: Iterable[dict[str, Any]] = page["tasks"]
            found += [row["job_id"] for row in rows if row["status"] in ENDED and row["job_id"] not in self.ended]
            if page["next"] is None:
                return found
            before = f"&before={page['next']}"

    async def _get(self, path: str) -> Any:
        url = self._url()
        if url is None:
            return None
        async with self._session.get(url + path, timeout=aiohttp.ClientTimeout(10)) as response:
            return await response.json() if response.status == 200 else None
