"""Count how often a model was told what is wrong with its answer: once for each kind, until it acts again."""

from __future__ import annotations

from pibot.llm_client.answers import Answer, Kind

MAX_IN_A_ROW = 3
"""Corrections without a tool call in between, of whatever kinds. A model that needs more gets nowhere."""


class Corrections:
    """The corrections of one task."""

    def __init__(self) -> None:
        self._told: list[Kind] = []

    def told(self, answer: Answer) -> str | None:
        """Return what to tell the model about an answer before it is asked once more; None if the task ends with it.

        An empty text means that it is asked again without a word.
        """
        if answer.correction is None or answer.kind in self._told or len(self._told) >= MAX_IN_A_ROW:
            return None
        self._told.append(answer.kind)
        return answer.correction

    def error(self, answer: Answer) -> str:
        """Return the error of a task that ends with an answer, as a sentence."""
        if answer.kind in self._told:
            return f"the model {answer.problem}{' twice' if answer.kind is Kind.EMPTY else ' (asked twice)'}"
        return f"the model {answer.problem}"

    def acted(self) -> None:
        """Note that the model called a tool."""
        self._told.clear()
