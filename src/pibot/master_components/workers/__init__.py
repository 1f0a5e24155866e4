"""The workers as the master knows them: who is there, who is free, and one task to one of them over HTTP.

It knows nothing of the job database or of the planner. Start reading at :mod:`pibot.master_components.workers.pool`.
"""
