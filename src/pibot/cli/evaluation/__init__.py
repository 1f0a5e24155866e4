"""``pibot eval``: small tasks with automatic checks, run on a fleet as it is set up, through the hub's HTTP API.

A task is one file in ``tasks``; a new file is a new task. Start reading at :mod:`pibot.cli.evaluation.tasks`.
"""
