#!/usr/bin/env python3
# test_integration.py

import asyncio
from pibot.master_components import TaskPlanner, create_default_worker_pool
from pibot.llm_client import create_llm_client_from_env

async def test_simple_task():
    """Test simple task delegation."""
    print("=== Test 1: Simple Task Delegation ===")
    
    # Initialize
    llm_client = create_llm_client_from_env()
    planner = TaskPlanner(llm_client)
    worker_pool = create_default_worker_pool()
    
    # Test worker health
    print("Checking Worker health...")
    health = await worker_pool.check_all_workers_health()
    for worker_id, is_healthy in health.items():
        status = "✓" if is_healthy else "✗"
        print(f"  {worker_id}: {status}")
    
    # Analyze task
    print("\nAnalyzing task...")
    plan = await planner.analyze_task("List files in /home/pi")
    print(f"  Complexity: {plan.complexity.value}")
    print(f"  Handle locally: {plan.handle_locally}")
    print(f"  Subtasks: {len(plan.subtasks)}")
    
    if not plan.handle_locally and plan.subtasks:
        # Delegate to worker
        subtask = plan.subtasks[0]
        print(f"\nDelegating to Worker...")
        result = await worker_pool.execute_task(subtask)
        print(f"  Success: {result['success']}")
        print(f"  Worker: {result.get('worker_id')}")
        if result.get('data'):
            print(f"  Output: {result['data'].get('output', 'N/A')[:200]}")
    
    await worker_pool.close()
    print("\n✓ Test completed")

async def test_worker_status():
    """Test worker status monitoring."""
    print("\n=== Test 2: Worker Status ===")
    
    worker_pool = create_default_worker_pool()
    status = worker_pool.get_status_summary()
    
    print(f"Total Workers: {status['total']}")
    print(f"  Idle: {status['idle']}")
    print(f"  Busy: {status['busy']}")
    print(f"  Offline: {status['offline']}")
    
    for worker in status['workers']:
        print(f"\n  {worker['id']}:")
        print(f"    IP: {worker['ip']}")
        print(f"    Status: {worker['status']}")
        print(f"    Current Task: {worker['current_task'] or 'None'}")
    
    await worker_pool.close()
    print("\n✓ Test completed")

async def main():
    print("PiBot V3 Master-Worker Integration Tests")
    print("=" * 50)
    
    try:
        await test_worker_status()
        await test_simple_task()
        print("\n" + "=" * 50)
        print("All tests passed!")
    except Exception as e:
        print(f"\n✗ Test failed: {e}")
        import traceback
        traceback.print_exc()

if __name__ == "__main__":
    asyncio.run(main())
