"""What a task has used of its budget, and when it must come to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable

from pibot.contracts import Budget, Completion, Message
from pibot.conversation.estimate import tokens_of_all

STEPS_NAMED = 3
"""Steps left from which on the model is told how many there are."""

SHORT_SHARE = 0.2
"""Share of the tokens or the seconds below which the model is told what is left."""

LAST_TOKENS_SHARE = 0.95
"""Share of the tokens after which the next model call is the last one."""

LAST_SECONDS_SHARE = 0.1
"""Share of the seconds that is kept for the last model call. It grows with the slowest one, up to twice as much."""

LEAST_SECONDS = 30.0
"""Seconds of a task that leave time for a last model call; in a shorter one, the time just ends."""


# docs/decisions.md, D171
class TaskBudget:
    """Counts one task's steps, tokens and seconds.

    Args:
        budget: the limits.
        seconds: returns the seconds that count so far.
    """

    def __init__(self, budget: Budget, seconds: Callable[[], float]) -> None:
        self._budget = budget
        self._seconds = seconds
        self._told: set[str] = set()
        self._sent: Sequence[Message] = ()
        self._last_total = 0
        self._slowest = 0.0
        self.steps = 0
        self.tokens = 0

    def count(self, sent: Sequence[Message], completion: Completion, seconds: float) -> None:
        """Count a model call: the tokens of the answer, and those of the prompt that earlier calls did not have.

        Providers keep a prompt's beginning in a cache; the same conversation again is no new use.

        Args:
            sent: the conversation.
            completion: the answer. Where its provider counts no tokens, they are estimated.
            seconds: how long the call took.
        """
        usage = completion.usage
        grown = len(sent) >= len(self._sent) and all(new is old for new, old in zip(sent, self._sent))
        if usage.prompt_tokens and grown:
            new = max(0, usage.prompt_tokens - self._last_total)
        else:
            same = 0
            while same < min(len(sent), len(self._sent)) and sent[same] is self._sent[same]:
                same += 1
            estimated = tokens_of_all(sent) or 1.0
            share = tokens_of_all(m for m in sent[same:] if not (grown and m.role == "assistant")) / estimated
            new = round((usage.prompt_tokens or estimated) * share)
        answered = usage.completion_tokens
        if not usage.total_tokens:
            answered = round(tokens_of_all([completion.to_message()]))
        self._sent = tuple(sent)
        self._last_total = usage.prompt_tokens + answered
        self.tokens += new + answered
        self._slowest = max(self._slowest, seconds)

    def count_apart(self, sent: Sequence[Message], completion: Completion) -> None:
        """Count a model call that is no part of the conversation, such as a summary of it."""
        counted = completion.usage.total_tokens
        self.tokens += counted or round(tokens_of_all([*sent, completion.to_message()]))

    def last_call(self) -> str | None:
        """Return why the next model call must be the task's last one, as a sentence; None if it need not be."""
        budget = self._budget
        if self.steps >= budget.max_steps - 1:
            return f"the task used its {budget.max_steps} steps (PIBOT_MAX_STEPS)"
        if self.tokens >= budget.max_tokens * LAST_TOKENS_SHARE:
            return f"the task used {self.tokens:,} new tokens, {budget.max_tokens:,} are allowed (PIBOT_MAX_TOKENS)"
        if budget.max_seconds < LEAST_SECONDS:
            return None
        share = LAST_SECONDS_SHARE * budget.max_seconds
        kept = min(max(share, 1.5 * self._slowest), 2 * share)
        if self.steps and budget.max_seconds - self._seconds() <= kept:
            return f"the task used most of its {budget.max_seconds:g} seconds (PIBOT_TASK_TIMEOUT)"
        return None

    def note(self) -> str:
        """Return what to tell the model about what is left; empty where there is enough, or it was told before."""
        budget = self._budget
        steps = budget.max_steps - self.steps
        parts = []
        if steps <= STEPS_NAMED:
            parts.append(f"{steps} {'answer' if steps == 1 else 'answers'} of yours")
        tokens = budget.max_tokens - self.tokens
        if tokens < SHORT_SHARE * budget.max_tokens and self._first("tokens"):
            parts.append(f"{max(0, tokens):,} tokens")
        seconds = budget.max_seconds - self._seconds()
        if (
            budget.max_seconds >= LEAST_SECONDS
            and seconds < SHORT_SHARE * budget.max_seconds
            and self._first("seconds")
        ):
            parts.append(f"{max(0.0, seconds):.0f} seconds")
        return f"[Left of this task's budget: {', '.join(parts)}. Come to your final answer.]" if parts else ""

    def _first(self, what: str) -> bool:
        new = what not in self._told
        self._told.add(what)
        return new
