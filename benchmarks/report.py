"""Write the figures as Markdown tables with ratios, budgets and the facts of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

from benchmarks import scale_report
from benchmarks.measure import CALLERS, WORKERS, Figures
from benchmarks.systems import OURS, PEERS, PEERS_PYTHON
from pibot import __version__


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Args:
        key: the name of the figures.
        title: shown in the table.
        form: the format of a figure, with its unit.
        budget: the figure to reach; None for a row that only informs.
        more_is_better: whether the figure is a rate and not a cost.
    """

    key: str
    title: str
    form: str
    budget: float | None = None
    more_is_better: bool = False

    def reached(self, figures: Figures) -> bool | None:
        """Return whether PiBot is within the budget; None without a budget or a figure."""
        ours = figures.median(self.key, OURS)
        if ours is None or self.budget is None:
            return None
        return ours >= self.budget if self.more_is_better else ours <= self.budget


ROWS = (
    Row("p50", "one call, submit to result, p50", "{:.2f} ms", 0.8),
    Row("p95", "one call, p95", "{:.2f} ms"),
    Row("rate", f"tasks a second, {WORKERS} workers, {CALLERS} callers", "{:.0f}", 2000, more_is_better=True),
    Row("idle", "worker idle, PSS", "{:.1f} MiB", 32),
    Row("used", "worker after a task, PSS", "{:.1f} MiB", 46),
    Row("idle_rss", "worker idle, RSS", "{:.1f} MiB"),
    Row("used_rss", "worker after a task, RSS", "{:.1f} MiB"),
    Row("ready", "worker ready to serve, from `exec`", "{:.2f} s", 0.4),
    Row("guide", "the guide's load test (ideal 3.00 s)", "{:.3f} s", 3.03),
    Row("guide_first", "the same as the first tasks after the start", "{:.3f} s"),
    Row("job_p50", "a durable job through the hub, p50", "{:.2f} ms", 10),
    Row("job_p95", "a durable job through the hub, p95", "{:.2f} ms"),
    Row("long_20kb", "a task of twenty tool results of 20 kB", "{:.2f} s"),
    Row("long_20kb_memory", "the most memory that it takes, RSS", "{:.1f} MiB", 70),
    Row("long_1mb", "a task of twenty tool results of 1 MB", "{:.2f} s"),
    Row("long_1mb_memory", "the most memory that it takes, RSS", "{:.1f} MiB", 80),
    Row("fsync", "(the disk's own `fsync` of 4 KiB)", "{:.2f} ms"),
)


def missed(figures: Figures) -> list[str]:
    """Return the titles of the measured rows that miss their budget."""
    return [row.title for row in ROWS if row.reached(figures) is False]


def table(figures: Figures) -> list[str]:
    """Return the table in Markdown. A peer's cell ends with PiBot's figure divided by the peer's."""
    peers = [kind.name for kind in PEERS if figures.of("p50", kind.name) or figures.of("idle", kind.name)]
    lines = [_line(["", OURS, "budget", "", *peers]), _line(["---"] * (4 + len(peers)))]
    for row in ROWS:
        ours = figures.median(row.key, OURS)
        if ours is None:
            continue
        budget = "" if row.budget is None else ("≥ " if row.more_is_better else "≤ ") + _budget(row)
        reached = {None: "", True: "reached", False: "**missed**"}[row.reached(figures)]
        cells = [row.title, f"**{row.form.format(ours)}**", budget, reached]
        for peer in peers:
            theirs = figures.median(row.key, peer)
            cells.append("" if theirs is None else f"{row.form.format(theirs)} (×{ours / theirs:.2f})")
        lines.append(_line(cells))
    return lines


def spread(figures: Figures) -> list[str]:
    """Return a table of the least and the greatest figure of each row and system."""
    names = [OURS, *(kind.name for kind in PEERS)]
    lines = [_line(["", "rounds", *names]), _line(["---"] * (2 + len(names)))]
    for row in ROWS:
        all_figures = [figures.of(row.key, name) for name in names]
        if not all_figures[0]:
            continue
        cells = [f"{row.form.format(min(f))} – {row.form.format(max(f))}" if f else "" for f in all_figures]
        lines.append(_line([row.title, str(len(all_figures[0])), *cells]))
    return lines


def document(figures: Figures, *, load_before: float, command: str, note: str = "") -> str:
    """Return the text of results.md."""
    lines = [
        "# Results",
        "",
        f"Measured by `{command}` on {datetime.now(timezone.utc):%Y-%m-%d}, in one run on one machine, over loopback. "
        "[README.md](README.md) explains each row.",
        *(["", note] if note else []),
        "",
        *table(figures),
        "",
        f"Each figure is the median of its rounds. In brackets: {OURS}'s figure divided by the peer's.",
        "",
        *scale_report.tables(figures),
        "## The machine",
        "",
        *(f"- {fact}" for fact in machine(load_before)),
        "",
        "## Settings of the peers that are not the defaults",
        "",
        *(f"- {kind.name}: {kind.settings}" for kind in PEERS),
        "- Redis: on loopback, without files; `redis` with its C parser `hiredis`, as redis-py advises",
        "",
        "## Least and greatest figure of the rounds",
        "",
        *spread(figures),
    ]
    return "\n".join(lines) + "\n"


def machine(load_before: float) -> Iterable[str]:
    """Yield the facts that the figures depend on, but no name or path of this machine."""
    cpu = _field(Path("/proc/cpuinfo"), "model name") or _field(Path("/proc/cpuinfo"), "Model") or platform.machine()
    yield f"{os.cpu_count()} × {cpu} ({platform.machine()})"
    yield f"load average before {load_before:.2f}, after {os.getloadavg()[0]:.2f} (the benchmark's own load included)"
    kernel = platform.release().partition("-")[0]
    yield f"Linux {kernel}, {_field(Path('/etc/os-release'), 'PRETTY_NAME') or 'unknown distribution'}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("flask", "cheroot", "aiohttp"))
    yield f"Python {platform.python_version()}, pibot {__version__}, {libraries}"
    yield "peers: " + (", ".join(_peer_versions()) or "not measured")


def _peer_versions() -> Sequence[str]:
    if not PEERS_PYTHON.exists():
        return []
    names = [*(kind.package for kind in PEERS), "redis", "hiredis"]
    code = f"from importlib.metadata import version\nfor n in {names!r}: print(n, version(n))"
    installed = subprocess.run([PEERS_PYTHON, "-c", code], capture_output=True, text=True, check=True)  # nosec B603 # no shell; a fixed command
    server = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True)  # nosec B603 B607 # a fixed command, found as the owner would
    number = next(word[2:] for word in server.stdout.split() if word.startswith("v="))
    return [*installed.stdout.splitlines(), f"redis-server {number}"]


def _budget(row: Row) -> str:
    unit = row.form.partition("}")[2]
    return f"{row.budget:,g}{unit}"


def _field(path: Path, name: str) -> str | None:
    for line in path.read_text("utf-8", "replace").splitlines():
        key, separator, value = line.partition(":" if ":" in line else "=")
        if separator and key.strip() == name:
            return value.strip().strip('"')
    return None


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
