"""What the model thought during one task, for the owner."""

from __future__ import annotations

from pibot.contracts.reading import newest
from pibot.contracts.tasks import MAX_REASONING_CHARS


# docs/decisions.md, D198
class Thoughts:
    """Keeps the newest of the model's reasoning. It is never a part of the conversation or of the answer.

    Args:
        wanted: whether the owner wants to see it; else nothing is kept.

    Attributes:
        text: what is kept, under a heading for each model call; with a mark where more was cut.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self.text = ""

    def add(self, call: int, reasoning: str) -> None:
        """Keep the reasoning of a model call, if there is any.

        Args:
            call: the call's number.
        """
        thought = reasoning.strip()
        if self._wanted and thought:
            self.text = newest(f"{self.text}\n\n[model call {call}]\n{thought}".lstrip(), MAX_REASONING_CHARS)
