"""Write the figures of :mod:`benchmarks.scale` as tables, with their growth."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.measure import Figures
from benchmarks.scale import CALLERS, FEW_JOBS, FEW_WORKERS, FLEETS, JOBS, SUBMITTERS, label

HUB_ROWS = (
    ("scale_p50", "a durable job, p50", "{:.2f} ms"),
    ("scale_done", f"jobs a second done, {CALLERS} callers that wait", "{:.0f}"),
    ("scale_accepted", f"jobs a second accepted, {SUBMITTERS} callers that don't", "{:.0f}"),
)


def tables(figures: Figures) -> list[str]:
    """Return the tables in Markdown; nothing if this was not measured."""
    by_jobs = [label(jobs, FEW_WORKERS) for jobs in JOBS]
    by_workers = [label(FEW_JOBS, workers) for workers in FLEETS]
    if figures.median("scale_p50", by_jobs[0]) is None:
        return []
    hub = [(title, key, form) for key, title, form in HUB_ROWS]
    return [
        "## Growth with the number of stored jobs and of workers",
        "",
        "These workers are light ones, which end each task at once. The last column is the last figure divided by the "
        "first.",
        "",
        *_table(figures, hub, by_jobs),
        "",
        *_table(figures, hub, by_workers),
        "",
        "The store's operations alone. In brackets: the instructions of SQLite's virtual machine, which the machine's "
        "load does not change. An operation that writes spends most of its milliseconds waiting for the disk.",
        "",
        *_steps(figures),
        "",
    ]


def _table(figures: Figures, rows: Sequence[tuple[str, str, str]], columns: Sequence[str]) -> list[str]:
    lines = [_line(["", *columns, "growth"]), _line(["---"] * (len(columns) + 2))]
    for title, key, form in rows:
        found = [figures.median(key, column) or 0.0 for column in columns]
        lines.append(_line([title, *(form.format(figure) for figure in found), _growth(found)]))
    return lines


def _steps(figures: Figures) -> list[str]:
    columns = [f"{jobs:,} jobs" for jobs in JOBS]
    lines = [_line(["", *columns, "growth"]), _line(["---"] * (len(columns) + 2))]
    for name in _step_names(figures):
        taken = [figures.median(f"store_ms {name}", column) or 0.0 for column in columns]
        needed = [figures.median(f"store_vm {name}", column) or 0.0 for column in columns]
        cells = [f"{ms:.2f} ms ({count:,.0f})" for ms, count in zip(taken, needed)]
        lines.append(_line([name, *cells, f"{_growth(taken)} ({_growth(needed)})"]))
    return lines


def _step_names(figures: Figures) -> list[str]:
    return [row.partition(" ")[2] for row in figures.rows() if row.startswith("store_ms ")]


def _growth(found: Sequence[float]) -> str:
    return f"×{found[-1] / found[0]:.2f}" if found[0] else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
