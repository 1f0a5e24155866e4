"""The job database: jobs with their steps and attempts, approvals, and what the model calls used.

It is one SQLite file with one writer; its versions are in ``migrations/``. It imports nothing of the workers, the
planner or HTTP. Start reading at :mod:`pibot.master_components.store.jobs`.
"""
