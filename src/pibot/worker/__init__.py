"""The worker: its HTTP API, one task at a time in a fresh agent, the calls that wait for the owner.

It imports the agent's loop, the skills, the sandbox, the model's client and ``web``; nothing of the master. Start
reading at :mod:`pibot.worker.process`, which puts a worker together.
"""
