"""The caller of PiBot's workers: calls ``WorkerPool.execute_task`` for workers on the given ports of loopback.

In addition to the requests of :mod:`benchmarks.protocol` it knows ``{"op": "guide"}``, the guide's load test, and
answers it with ``{"seconds": s}``.
"""

from __future__ import annotations

import asyncio
import sys
import time

from benchmarks import protocol
from pibot.contracts import SubTask, WorkerAddress
from pibot.master_components.workers.guide import GuidePool
from pibot.master_components.workers.pool import WorkerPool


async def call(pool: GuidePool) -> None:
    result = await pool.execute_task(SubTask(task_id="noop", description="Do nothing", skills=[]))
    if not result["success"]:
        raise RuntimeError(f"PiBot gave an unexpected result: {result}")


async def one_after_another(pool: GuidePool, count: int, seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while len(taken) < count:
        before = time.perf_counter()
        if taken and before >= end:
            break
        await call(pool)
        taken.append(time.perf_counter() - before)
    return taken


async def side_by_side(pool: GuidePool, callers: int, seconds: float) -> tuple[int, float]:
    begin = time.perf_counter()
    end = begin + seconds

    async def caller() -> int:
        calls = 0
        while time.perf_counter() < end:
            await call(pool)
            calls += 1
        return calls

    counts = await asyncio.gather(*(caller() for _ in range(callers)))
    return sum(counts), time.perf_counter() - begin


async def guide_load_test(pool: GuidePool) -> float:
    """Do what the guide's test_load.py does between its two readings of the clock; return the seconds."""
    tasks = [
        SubTask(task_id=f"parallel_{i}", description=f"Sleep for {i + 1} seconds", skills=["shell_exec"])
        for i in range(3)
    ]
    begin = time.perf_counter()
    results = await asyncio.gather(*[pool.execute_task(task) for task in tasks])
    taken = time.perf_counter() - begin
    failed = [result for result in results if not result["success"]]
    if failed:
        raise RuntimeError(f"the guide's load test failed: {failed}")
    return taken


async def main() -> None:
    addresses = [
        WorkerAddress(f"worker-{number}", "127.0.0.1", int(port)) for number, port in enumerate(sys.argv[1:], 1)
    ]
    pool = GuidePool(WorkerPool(addresses))
    try:
        for request in protocol.requests():
            if request["op"] == "calls":
                protocol.answer(seconds=await one_after_another(pool, request["count"], request["seconds"]))
            elif request["op"] == "load":
                calls, seconds = await side_by_side(pool, request["callers"], request["seconds"])
                protocol.answer(calls=calls, seconds=seconds)
            else:
                protocol.answer(seconds=await guide_load_test(pool))
    finally:
        await pool.close()


if __name__ == "__main__":
    asyncio.run(main())
