"""Keep a task's conversation within the window of its model.

What is too much is cut in this order: old outputs and long arguments are shortened; the middle of the conversation is
summed up; the outputs of the last rounds are shortened. The system prompt, the task and the last rounds stay, and a
tool call stays with its result. A cut goes well below the limit, so that the next calls repeat the same beginning.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, replace
from typing import Callable, Protocol

from pibot.contracts import Completion, Message, ToolSpec
from pibot.conversation.estimate import (
    LEAST_RATIO,
    MOST_RATIO,
    least_tokens_of_message,
    tokens_of_all,
    tokens_of_message,
    tokens_of_tools,
)
from pibot.conversation.shorten import body_of, is_kept, shortened_answer, shortened_output, tool_of
from pibot.conversation.windows import ModelWindows
from pibot.logs import event

log = logging.getLogger("pibot.agent")

KEPT_ROUNDS = 2
"""Answers of the model, with their results, that stay at the end of the conversation."""

OLD_CHARS = 1_200
"""Characters that stay of an old output."""

LAST_CHARS = (10_000, 5_000, 2_500, 1_200, 600, 300)
"""Characters that stay of each output of the last rounds; the first that lets the conversation fit is taken."""

LOW_SHARE = 0.6
"""Share of the limit that a cut goes down to."""

SUMMARY_SHARE = 0.15
"""Share of the limit that a summary may take."""

WORTH_SHARE = 0.3
"""Share of the limit that the middle takes at least where it is summed up."""

MOST_CUTS = 4
"""Refusals of the same prompt, each cut once more, until the task gives up."""

CUT_LEAST = 1_000
"""Tokens that must be missing in a provider's count before it counts as a cut."""

LEAST_WINDOW = 1_000
"""Tokens that a cut prompt has at least; servers that count fewer count something else."""

LEAST_COUNT = 100
"""Tokens below which a count says nothing about a prompt with instructions and tools."""

_WHOLE_WINDOWS = frozenset(2**power + more for power in range(11, 18) for more in (-1, 0, 1))
"""Usual windows in tokens, of 2,048 to 131,072: an answer that ends there was not cut by a limit of its own."""

SumUp = Callable[[Sequence[Message], int], Awaitable[str]]
"""Sums messages up in at most so many tokens."""


class KeepsOutputs(Protocol):
    """Keeps whole outputs where the task's tools can read them."""

    def keep(self, tool: str, text: str) -> str | None:
        """Keep a text and return its path for the task's tools; None where it can't be kept."""
        ...


@dataclass(frozen=True)
class SilentCut:
    """A prompt that the provider cut without saying so.

    Args:
        counted: the prompt's tokens, as the provider counted them.
        sent: about how many were sent.
    """

    counted: int
    sent: int


# docs/decisions.md, D170
class ContextWindow:
    """The window of one task's conversation.

    Args:
        windows: what is known of the model's window.
        tools: the tools that each call carries.
        outputs: keeps the whole of shortened outputs; None where no tool could read them.
        mark: marks a summary as data.
    """

    def __init__(
        self,
        windows: ModelWindows,
        tools: Sequence[ToolSpec],
        outputs: KeepsOutputs | None,
        mark: Callable[[str], str],
    ) -> None:
        self._windows = windows
        self._tools = tokens_of_tools(tools)
        self._outputs = outputs
        self._mark = mark
        self._task: Message | None = None
        self._cap: float | None = None
        self._refusals = 0
        self._model: str | None = None
        self._last: tuple[int, float] | None = None  # the last count, and the estimate for the same prompt

    @property
    def limit(self) -> float:
        """Tokens that a prompt may have, so that the window has room for the answer."""
        window = self._windows.tokens
        limit = window - min(max(window // 8, 512), 8192, window // 2)
        return limit if self._cap is None else min(limit, self._cap)

    def size(self, messages: Sequence[Message]) -> float:
        """Estimate the tokens of a prompt."""
        return (self._tools + tokens_of_all(messages)) * self._ratio

    async def fit(self, messages: list[Message], sum_up: SumUp) -> bool:
        """Cut the conversation if it is longer than the window; return whether anything was cut.

        Args:
            messages: the system prompt, the task, and the rounds so far; changed in place.
            sum_up: sums the middle up.
        """
        before = self.size(messages)
        if before <= self.limit:
            return False
        first, last = _middle(messages)
        self._shorten(messages, range(first, last), OLD_CHARS, self.limit * LOW_SHARE)
        if self.size(messages) > self.limit and self._large(messages[first:last]):
            await self._replace_middle(messages, first, last, sum_up)
        rounds = range(_middle(messages)[0], len(messages))
        for chars in LAST_CHARS:
            if self.size(messages) > self.limit:
                self._shorten(messages, rounds, chars, self.limit)
        after = self.size(messages)
        event(log, "conversation_cut", before=round(before), after=round(after), window=self._windows.tokens)
        return after < before

    def refused(self, messages: Sequence[Message], window: int | None, sent: int | None) -> bool:
        """Learn from a refusal of a prompt for its length; return whether another try makes sense.

        Args:
            messages: what was sent.
            window: the window in tokens, if the server named it.
            sent: the prompt's tokens, if the server named them.
        """
        self._refusals += 1
        estimated = self.size(messages) / self._ratio
        if sent is not None:
            self._windows.ratio = min(max(sent / estimated, LEAST_RATIO), MOST_RATIO)
        if window is not None:
            self._windows.learn(window)
        size = self.size(messages)
        if self.limit >= size * 0.9:
            self._cap = size * 0.7
        event(log, "prompt_too_long", level=logging.WARNING, sent=sent or round(size), window=window)
        return self._refusals <= MOST_CUTS

    def filled_up(self, messages: Sequence[Message], completion: Completion) -> bool:
        """Return whether an answer that ends at its length limit ends where the window does; then learn that.

        Args:
            messages: what was sent.
            completion: the answer.
        """
        usage = completion.usage
        full = completion.finish_reason.lower() == "model_context_window_exceeded"
        if usage.prompt_tokens >= LEAST_WINDOW and usage.completion_tokens:
            known = self._windows.tokens
            full = full or usage.total_tokens >= 0.98 * known or usage.total_tokens in _WHOLE_WINDOWS
        return full and self.refused(messages, usage.total_tokens or None, usage.prompt_tokens or None)

    def answered(self, messages: Sequence[Message], completion: Completion) -> SilentCut | None:
        """Learn from the provider's count of a prompt that it answered.

        Args:
            messages: what was sent.
            completion: the answer, with the count; 0 where the provider counts none.

        Returns:
            The cut, if the count shows that the provider left much of the prompt out.
        """
        self._refusals = 0
        self._windows.tell(completion.window)
        if completion.model != self._model:  # another one counts other tokens, and may have another window
            if self._model is not None:
                self._last, self._windows.ratio = None, None
            self._model = completion.model
        counted = completion.usage.prompt_tokens
        if counted < LEAST_COUNT:
            return None
        estimated = self._tools + tokens_of_all(messages)
        cut = self._cut_shown_by(counted, estimated, messages)
        if cut is None:
            if LEAST_RATIO <= counted / estimated <= MOST_RATIO:
                self._windows.ratio = counted / estimated
            self._last = counted, estimated
        elif counted < self._windows.tokens:
            self._windows.learn(counted)
        return cut

    def _cut_shown_by(self, counted: int, estimated: float, messages: Sequence[Message]) -> SilentCut | None:
        ratio = self._windows.ratio
        if counted < LEAST_WINDOW:
            return None
        if ratio is None:
            expected = sum(map(least_tokens_of_message, messages))
            few = counted < expected
        else:
            expected = estimated * ratio
            few = counted < expected * 0.5
        missing = expected - counted
        if self._last is not None and not few and estimated > self._last[1]:
            growth = (estimated - self._last[1]) * self._ratio
            grown = counted - self._last[0]
            few = grown < 0.35 * growth and growth - grown >= CUT_LEAST
            missing = max(missing, growth - grown)
        return SilentCut(counted, round(counted + missing)) if few and missing >= CUT_LEAST else None

    @property
    def _ratio(self) -> float:
        return self._windows.ratio or 1.0

    def _shorten(self, messages: list[Message], where: range, chars: int, target: float) -> None:
        """Shorten messages, oldest first, until the conversation has the target's size."""
        size = self.size(messages)
        for index in where:
            if size <= target:
                return
            old = messages[index]
            if old.role == "tool":
                new = self._shortened_output(old, chars)
            else:
                new = shortened_answer(old, chars) if old.role == "assistant" else old
            if new is not old:
                messages[index] = new
                size -= (tokens_of_message(old) - tokens_of_message(new)) * self._ratio

    def _large(self, messages: Sequence[Message]) -> bool:
        """Return whether a summary of these messages makes enough room to be worth a model call."""
        return tokens_of_all(messages) * self._ratio > WORTH_SHARE * self.limit

    def _shortened_output(self, message: Message, chars: int) -> Message:
        short = shortened_output(message, chars)
        if short is message or self._outputs is None or is_kept(message):
            return short
        where = self._outputs.keep(tool_of(message), body_of(message.content)[1])
        return short if where is None else shortened_output(message, chars, where)

    async def _replace_middle(self, messages: list[Message], first: int, last: int, sum_up: SumUp) -> None:
        """Put a summary behind the task in the place of the middle of the conversation."""
        if self._task is None:
            self._task = messages[first - 1]
        summary = await sum_up(messages[first - 1 : last], round(self.limit * SUMMARY_SHARE / self._ratio))
        content = f"{self._task.content}\n\n{self._mark(summary)}"
        messages[first - 1 : last] = [replace(self._task, content=content)]


def _middle(messages: Sequence[Message]) -> tuple[int, int]:
    """Return where the rounds begin, and where the last rounds do."""
    answers = [index for index, message in enumerate(messages) if message.role == "assistant"]
    if not answers:
        return len(messages), len(messages)
    return answers[0], answers[-KEPT_ROUNDS] if len(answers) > KEPT_ROUNDS else answers[0]
