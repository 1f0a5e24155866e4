"""What the model is told about time, machine and limits.

It stays the same for a whole task and stands at the end of the system prompt: providers keep a prompt's beginning in
their cache, and bill the rest anew.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pibot.contracts import Budget

LOCALTIME = Path("/etc/localtime")

_ZONE_NAME = re.compile(r"/zoneinfo/([A-Za-z0-9_+-]{1,20}(?:/[A-Za-z0-9_+-]{1,30}){0,2})\Z")


@dataclass(frozen=True)
class Machine:
    """The machine that a task runs on, as the model is told of it.

    Args:
        worker_id: the worker's name.
        labels: what its owner says of it.
    """

    worker_id: str
    labels: Sequence[str] = ()


def local_now() -> datetime.datetime:
    """Return the time now, with this machine's offset."""
    return datetime.datetime.now().astimezone()


def today_line(now: datetime.datetime) -> str:
    """Return a sentence with the date and the time zone: it stays the same for a day, and so does the prompt."""
    return f"Today is {now:%A}, {now:%Y-%m-%d} ({_zone(now)})."


def now_line(now: datetime.datetime) -> str:
    """Return a sentence with the date, the time and the time zone.

    Args:
        now: the local time, with its offset.
    """
    return f"It is {now:%A}, {now:%Y-%m-%d}, {now:%H:%M} ({_zone(now)})."


def _zone(now: datetime.datetime) -> str:
    here = datetime.datetime.fromtimestamp(now.timestamp()).astimezone()
    name = zone_name() if now.utcoffset() == here.utcoffset() else None
    offset = now.strftime("%z")
    shown = f"UTC{offset[:3]}:{offset[3:5]}" if offset else "UTC"
    return f"{name}, {shown}" if name else shown


def zone_name(localtime: Path = LOCALTIME, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the name of this machine's time zone, such as ``Asia/Shanghai``; None if it is not known.

    The name is read from a link: the standard library's zones would cost a worker a quarter of a megabyte.

    Args:
        localtime: the link to the zone's file.
        environ: the environment. Its ``TZ`` can name another zone in forms of its own.
    """
    if "TZ" in environ:
        return None
    try:
        named = _ZONE_NAME.search(str(localtime.readlink())) if localtime.exists() else None
    except OSError:
        return None
    return named.group(1) if named else None


def briefing(now: datetime.datetime, machine: Machine | None, budget: Budget) -> str:
    """Return the part of a worker's system prompt that is about time, machine, limits and language."""
    lines = [f"{now_line(now)} That is when this task began."]
    if machine is not None:
        labels = f" ({', '.join(machine.labels)})" if machine.labels else ""
        lines.append(f"You run on the worker {machine.worker_id}{labels}.")
    lines.append(
        f"This task has {budget.max_steps} answers of yours, {budget.max_seconds:g} seconds and "
        f"{budget.max_tokens:,} new tokens. Notes in square brackets behind a tool's output, outside its marks, say "
        "when little of that is left."
    )
    lines.append("Write your final answer in the language that the task is written in.")
    return "## Now\n\n" + "\n".join(lines)
