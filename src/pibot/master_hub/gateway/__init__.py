"""The gateway: the master's pass-through to the model's provider, for the workers and for the hub's own planning.

Every model call of the fleet goes through :class:`~pibot.master_hub.gateway.caller.ModelCaller`, which retries it,
falls back to another model, keeps to the budgets and counts the tokens. Here belongs what a model call needs on the
master. The room imports ``pibot.llm_client`` and the job store, and nothing else of ``master_hub``. Start reading at
:mod:`pibot.master_hub.gateway.gateway`.
"""
