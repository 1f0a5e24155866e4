"""The job database: jobs, their steps and attempts, approvals, and what models were asked.

One SQLite file, one writer, versions in ``migrations/``. It knows nothing of workers, of the planner or of HTTP. Start
reading at :mod:`pibot.master_components.store.jobs`.
"""
