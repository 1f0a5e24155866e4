"""The offline model: a server that speaks the OpenAI chat-completions protocol and follows fixed rules.

It is there for trying things out without a key, and for tests. It is no AI, and never says that it is: its name is
:data:`MODEL_NAME` wherever a model's name is shown. What it knows is the table in :mod:`pibot.rehearsal.rules`.
"""

from pibot.rehearsal.outcome import MODEL_NAME
from pibot.rehearsal.server import create_rehearsal_app, run_rehearsal

__all__ = ["MODEL_NAME", "create_rehearsal_app", "run_rehearsal"]
