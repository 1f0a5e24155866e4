"""Leave out what a model thought aloud before its answer."""

from __future__ import annotations

from pibot.llm_client.thinking import split_thinking


def without_thoughts(text: str) -> str:
    """Return a model's text without the reasoning at its beginning, in whatever marks its model writes it.

    A block that is not closed holds the rest of the text. Marks further on are the text's own: a job may be about them.
    """
    return split_thinking(text).answer
