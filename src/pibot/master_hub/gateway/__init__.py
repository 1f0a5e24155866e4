"""The gateway: the master's pass-through to the model's provider, with its retries, fallback, budgets and counts.

Start reading at :mod:`pibot.master_hub.gateway.gateway`.
"""
