"""The offline model: a server that speaks the OpenAI chat-completions protocol and answers by fixed rules.

Use it to try things out without a key, and in tests. It is no AI and never claims to be one: wherever a model's name is
shown, it is :data:`MODEL_NAME`. Start reading at :mod:`pibot.rehearsal.rules`, the table of what it knows.
"""

from pibot.rehearsal.outcome import MODEL_NAME
from pibot.rehearsal.server import create_rehearsal_app, run_rehearsal

__all__ = ["MODEL_NAME", "create_rehearsal_app", "run_rehearsal"]
