"""The worker: its HTTP API, one task at a time in a fresh agent, and the tool calls that wait for the owner.

It imports the agent's loop, the tool registry, the sandbox, the model's client and ``web``, and nothing of the master.
Start reading at :mod:`pibot.worker.process`, which puts a worker together; :mod:`pibot.worker.executor` runs the tasks.
"""
