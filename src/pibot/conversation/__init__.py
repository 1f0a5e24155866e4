"""A task's conversation with the model: its window, its budget, repeats, and what the model is told.

The loop in ``agent_core`` decides what to do with an answer; how the next call is made is decided here. Start reading
at ``conversation.py``.
"""
