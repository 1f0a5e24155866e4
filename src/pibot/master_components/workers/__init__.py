"""The workers as the master sees them: joining and leaving, health polls, the queue for them, and exchanges with them.

It imports neither the job store nor the planner. Start reading at :mod:`pibot.master_components.workers.pool`.
"""
