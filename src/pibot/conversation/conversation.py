"""One task's conversation: makes its model calls, within the model's window and the task's budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from pibot.contracts import Clock, Completion, LLMClient, Message, ToolSpec, Usage
from pibot.conversation import summary
from pibot.conversation.budget import TaskBudget
from pibot.conversation.estimate import tokens_of_all
from pibot.conversation.shorten import shortened
from pibot.conversation.window import ContextWindow, SilentCut
from pibot.errors import LLMError, LLMRejected, LLMTooLong
from pibot.llm_client.answers import plain_answer
from pibot.logs import event

log = logging.getLogger("pibot.agent")

MOST_SUMMARIES = 6
"""Summaries that the model makes in one task; later ones are lists of what was called."""

LAST_CALL = (
    "[This is your last answer in this task: {why}. You can call no tool any more. Give your final answer from what "
    'you have found so far, in the form that was asked for. Say what is missing, and let "success" be true only if '
    "what you have answers the task.]"
)


class Conversation:
    """The messages of one task, and its model calls.

    Args:
        llm: the model's client.
        tools: the tools that each call offers.
        messages: the system prompt and the task; the loop adds to it.
        budget: counts what is used.
        window: keeps the messages within the model's window.
        clock: returns seconds.

    Attributes:
        usage: the tokens and calls, as the provider counted them.
        notes: what the owner should know of the model's server, as sentences.
    """

    def __init__(
        self,
        llm: LLMClient,
        tools: Sequence[ToolSpec],
        messages: list[Message],
        budget: TaskBudget,
        window: ContextWindow,
        clock: Clock = time.monotonic,
    ) -> None:
        self._llm = llm
        self._tools = tools
        self._window = window
        self._clock = clock
        self._summaries = 0
        self.messages = messages
        self.budget = budget
        self.usage = Usage()
        self.notes: list[str] = []

    async def ask(self) -> Completion:
        """Make the next model call. What is too long for the model is cut before, and after a refusal once more.

        Raises:
            LLMError: the call failed.
        """
        self.budget.steps += 1
        return await self._ask(self._tools)

    async def ask_for_the_end(self, why: str) -> Completion:
        """Make the task's last model call, without tools.

        Args:
            why: why it is the last one, as a sentence.

        Raises:
            LLMError: the call failed.
        """
        self.add_note(LAST_CALL.format(why=why))
        self.budget.steps += 1
        try:
            return await self._ask(())
        except LLMTooLong:
            raise
        except LLMRejected as exc:
            if not self._tools or exc.status not in (400, 422):
                raise
            return await self._ask(self._tools)  # some servers refuse tool calls in a conversation without tools

    def add_note(self, note: str) -> None:
        """Tell the model something, behind the last message: templates differ in where a further one may stand."""
        last = self.messages[-1]
        if last.role == "assistant":
            self.messages.append(Message("user", note))
        else:
            self.messages[-1] = replace(last, content=f"{last.content}\n{note}")

    async def _ask(self, tools: Sequence[ToolSpec]) -> Completion:
        await self._window.fit(self.messages, self._sum_up)
        while True:
            began = self._clock()
            try:
                completion = await self._llm.complete(self.messages, tools)
            except LLMTooLong as exc:
                again = self._window.refused(self.messages, exc.window, exc.sent)
                if not again or not await self._window.fit(self.messages, self._sum_up):
                    raise
                continue
            self.usage += completion.usage
            self.budget.count(self.messages, completion, self._clock() - began)
            if completion.cut and self._window.filled_up(self.messages, completion):
                if await self._window.fit(self.messages, self._sum_up):
                    continue
                return completion
            cut = self._window.answered(self.messages, completion)
            if cut is not None and self._name(cut) and await self._window.fit(self.messages, self._sum_up):
                continue  # the answer is that of a model that did not see all of its task
            return completion

    def _name(self, cut: SilentCut) -> bool:
        """Note a cut that the server kept silent about; return whether it is the task's first one."""
        if self.notes:
            return False
        event(log, "prompt_cut_by_server", level=logging.WARNING, counted=cut.counted, sent=cut.sent)
        self.notes.append(
            f"the model's server cut the conversation without saying so: it counted {cut.counted:,} tokens of about "
            f"{cut.sent:,}; give it a larger window (Ollama: OLLAMA_CONTEXT_LENGTH), and set PIBOT_MODEL_WINDOW to it"
        )
        return True

    async def _sum_up(self, messages: Sequence[Message], tokens: int) -> str:
        """Sum messages up, by the model or, where that fails, as a list of what was called."""
        size = sum(len(m.content) + sum(len(c.raw_arguments) for c in m.tool_calls) for m in messages)
        chars_a_token = size / max(1.0, tokens_of_all(messages))
        most = round(tokens * chars_a_token)
        text = ""
        if self._summaries < MOST_SUMMARIES:
            self._summaries += 1
            text = await self._summary_of(messages, round(3 * tokens * chars_a_token), min(max(tokens // 2, 50), 800))
        if not text:
            text = summary.transcript(messages[1:], most)
        return f"What was done so far, summed up:\n{shortened(text, most)}"

    async def _summary_of(self, messages: Sequence[Message], chars: int, words: int) -> str:
        request = summary.request(messages, chars, words)
        try:
            completion = await self._llm.complete(request)
        except LLMError as exc:
            event(log, "not_summed_up", level=logging.WARNING, error=str(exc))
            return ""
        self.usage += completion.usage
        self.budget.count_apart(request, completion)
        text = plain_answer(completion).strip()
        return f"{text}\n[the summary ends here: it reached its length limit]" if completion.cut else text
