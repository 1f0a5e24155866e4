"""Brings every accepted job to its end.

It stands on the store, the workers and the planner; none of those imports it. Start reading at
:mod:`~pibot.master_components.dispatch.dispatcher`, then follow a job through
:mod:`~pibot.master_components.dispatch.job_runner` and :mod:`~pibot.master_components.dispatch.step_runner`.
"""
