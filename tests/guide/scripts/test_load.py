#!/usr/bin/env python3
# test_load.py

import asyncio
from pibot.master_components import create_default_worker_pool, SubTask

async def test_parallel_execution():
    """Test parallel task execution on multiple workers."""
    print("=== Load Test: Parallel Execution ===")
    
    worker_pool = create_default_worker_pool()
    
    # Create 3 tasks
    tasks = [
        SubTask(
            task_id=f"parallel_{i}",
            description=f"Sleep for {i+1} seconds",
            skills=["shell_exec"]
        )
        for i in range(3)
    ]
    
    # Execute all in parallel
    print("Starting 3 parallel tasks...")
    start_time = asyncio.get_event_loop().time()
    
    results = await asyncio.gather(*[
        worker_pool.execute_task(task)
        for task in tasks
    ])
    
    end_time = asyncio.get_event_loop().time()
    total_time = end_time - start_time
    
    print(f"\nResults:")
    for i, result in enumerate(results):
        print(f"  Task {i}: {'✓' if result['success'] else '✗'}")
    
    print(f"\nTotal time: {total_time:.2f}s")
    print(f"If parallel: should be ~3s")
    print(f"If serial: would be ~6s")
    
    await worker_pool.close()

if __name__ == "__main__":
    asyncio.run(test_parallel_execution())
