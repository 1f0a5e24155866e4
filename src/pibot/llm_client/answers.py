"""Say what kind of answer a completion is: tool calls, a final answer, or one of the many ways to give neither.

The agent's loop acts on the kind alone. Whatever a model or its server leaves out, cuts off or writes in another
place is named here. The modules that look closer have large patterns, and are imported on first use: most answers
need none of them, and a Zero 2W takes a third of a second to compile these.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from pibot.contracts import Completion, Message, ToolCall, ToolSpec
from pibot.llm_client.extras import encodable
from pibot.llm_client.final_objects import final_object
from pibot.llm_client.tool_calls import NewId, dumped, new_call_id, unused_id
from pibot.llm_client.tool_names import resolve

_EXCERPT_CHARS = 120

_FINAL = 'give your final answer as the JSON object with "success", "data" and "output"'


class Kind(enum.Enum):
    """What a completion is. The value is its name in the log."""

    CALLS = "calls"
    FINAL = "final"
    EMPTY = "empty"
    REASONING_ALONE = "reasoning_alone"
    WRITTEN_CALL = "written_call"
    PROMISE = "promise"
    LENGTH = "length"
    FILTERED = "filtered"
    REFUSED = "refused"
    MALFORMED_CALL = "malformed_call"
    BROKEN_OFF = "broken_off"


@dataclass(frozen=True)
class Answer:
    """A completion, read.

    Args:
        kind: what it is.
        message: repeats it in the next request.
        calls: the tool calls, each with its tool's own name where that is clear, and with an id of its own.
        text: the answer, without the model's reasoning.
        reasoning: what the model thought.
        cut: whether the text ends at the length limit.
        problem: why it is neither calls nor an answer, as the end of a sentence for the owner.
        correction: what the model is told before it is asked once more; None where that would change nothing.
    """

    kind: Kind
    message: Message
    calls: tuple[ToolCall, ...] = ()
    text: str = ""
    reasoning: str = ""
    cut: bool = False
    problem: str = ""
    correction: str | None = None


_FILTERED = frozenset(
    {
        "content_filter",
        "content_filtered",
        "contentfilter",
        "safety",
        "recitation",
        "prohibited_content",
        "blocklist",
        "spii",
        "sensitive",
        "blocked",
        "language",
        "image_safety",
        "guardrail_intervened",
        "moderation",
    }
)
_REFUSED = frozenset({"refusal", "refused"})
_MALFORMED = frozenset(
    {
        "malformed_function_call",
        "malformed_tool_call",
        "unexpected_tool_call",
        "too_many_tool_calls",
        "invalid_tool_call",
    }
)
_CALLING = frozenset({"tool_calls", "tool_call", "function_call", "tool_use"})
_BROKEN_OFF = frozenset(
    {
        "error",
        "insufficient_system_resource",
        "network_error",
        "abort",
        "aborted",
        "cancelled",
        "timeout",
        "overloaded",
        "engine_overloaded",
        "other",
        "unknown",
    }
)
"""The ``finish_reason`` of many providers, in small letters: OpenAI's, Gemini's, GLM's, DeepSeek's and others'."""


# docs/decisions.md, D181
def read_answer(
    completion: Completion,
    tools: Sequence[ToolSpec],
    *,
    taken: Collection[str] = (),
    data: Sequence[str] = (),
    new_id: NewId = new_call_id,
) -> Answer:
    """Say what a completion is.

    Args:
        completion: as the model's server sent it.
        tools: the task's own.
        taken: the ids of the tool calls that the conversation holds.
        data: texts that the model was given, which it may quote: the task, and tool results.
        new_id: makes ids of tool calls.
    """
    reason = re.sub(r"[^a-z]+", "_", completion.finish_reason.lower()).strip("_")
    reason = reason.rpartition("function_call_filter_")[2] or reason  # Gemini behind its OpenAI endpoint
    cut = completion.cut
    thought, text = _split(completion.text, cut=cut)
    reasoning = completion.reasoning or thought
    if completion.tool_calls:
        calls = _own(completion.tool_calls, tools, taken, new_id)
        return Answer(Kind.CALLS, completion.to_message(calls), calls, text, reasoning)
    message = _speaking(completion)
    answer = Answer(Kind.FINAL, message, (), text, reasoning, cut)
    unfinished = _unfinished(completion, reason, answer)
    if unfinished is not None:
        return unfinished
    if _begins_final(text):
        return answer
    read = _read_text(completion, answer, tools, taken=taken, data=data, new_id=new_id)
    return _malformed(read, completion) if read.kind is Kind.FINAL and tools and reason in _CALLING else read


def plain_answer(completion: Completion) -> str:
    """Return the text of an answer that is no task's, such as a summary: without the model's reasoning."""
    return _split(completion.text, cut=completion.cut)[1]


def _split(text: str, *, cut: bool) -> tuple[str, str]:
    """Part a text into the reasoning at its beginning and the answer."""
    if not any(
        mark in text for mark in ("<", "[THINK]", "[/THINK]", "◁", "[|", "\ufeff", "\u200b")
    ) and not text.startswith("analysis"):
        return "", text
    from pibot.llm_client.thinking import split_thinking

    return split_thinking(text, cut=cut)


def _read_text(
    completion: Completion,
    answer: Answer,
    tools: Sequence[ToolSpec],
    *,
    taken: Collection[str],
    data: Sequence[str],
    new_id: NewId,
) -> Answer:
    """Read a text that is no final JSON object: it may be an answer in prose, a call in writing, or a promise."""
    text = answer.text
    if _may_hold_a_call(text):
        from pibot.llm_client.written_calls import Verdict, read_written

        written = read_written(text, tools, data)
        if written.verdict is Verdict.ATTEMPT:
            return _written_attempt(answer, tools)
        if written.verdict is Verdict.CALLS:
            calls = _own([_as_call(call.name, call.arguments, new_id) for call in written.calls], tools, taken, new_id)
            message = _without_the_calls(completion, answer, written.before, calls)
            return replace(answer, kind=Kind.CALLS, message=message, calls=calls, text=written.before)
    if _declines(text, data):
        return replace(answer, kind=Kind.REFUSED, problem=f"refused the task: {_excerpt(text)}")
    if tools and _is_promise(text, data):
        return replace(
            answer,
            kind=Kind.PROMISE,
            problem=f"said what it would do and called no tool: {_excerpt(text)}",
            correction="You said what you will do, but called no tool, so nothing was done. Call the tool now, with "
            f"the API's own tool calls. If you need none, {_FINAL}.",
        )
    return answer


def _may_hold_a_call(text: str) -> bool:
    stripped = text.strip()
    return (
        any(mark in stripped for mark in ("<", "[TOOL_", "Action", "```", "\n{", "\n[", "\n ", "to="))
        or stripped[:1] in ("{", "[")
        or stripped[-1:] in (")", "]", "}", "✿")
    )


def _is_promise(text: str, data: Sequence[str]) -> bool:
    from pibot.llm_client import intent

    return intent.is_promise(text) and not any(map(intent.asks_for_wording, data[:1]))


def _declines(text: str, data: Sequence[str]) -> bool:
    from pibot.llm_client import intent

    return intent.declines(text) and not any(map(intent.asks_for_wording, data[:1]))


def _without_the_calls(completion: Completion, answer: Answer, before: str, calls: tuple[ToolCall, ...]) -> Message:
    """Return the message that repeats an answer with calls in writing: the calls apart, and the text before them."""
    whole = completion.text
    if before:
        said = whole[: whole.rfind(before) + len(before)]
    else:
        place = whole.rfind(answer.text.strip()[:200])
        said = whole[: max(0, place)]
    return replace(completion.to_message(calls), content=said.strip())


def _unfinished(completion: Completion, reason: str, answer: Answer) -> Answer | None:
    """Return what an answer is that its server, or the model, did not bring to an end; None for any other."""
    empty = not answer.text.strip()
    if reason in _FILTERED and (empty or final_object(answer.text) is None):
        return replace(
            answer,
            kind=Kind.FILTERED,
            problem=f"was stopped by the provider's content filter (finish_reason {completion.finish_reason})",
            correction="" if empty else None,
        )
    if (completion.refusal and (empty or answer.text == completion.refusal)) or reason in _REFUSED:
        said = completion.refusal or answer.text
        return replace(answer, kind=Kind.REFUSED, problem=f"refused the task: {_excerpt(said)}")
    if reason in _MALFORMED:
        return _malformed(answer, completion)
    if reason in _BROKEN_OFF and (empty or final_object(answer.text) is None):
        return replace(
            answer,
            kind=Kind.BROKEN_OFF,
            problem=f"was broken off by the provider (finish_reason {completion.finish_reason})",
            correction="" if empty else f"Your last answer was broken off. Go on: call a tool, or {_FINAL}.",
        )
    return _nothing_said(answer) if empty else None


def _malformed(answer: Answer, completion: Completion) -> Answer:
    return replace(
        answer,
        kind=Kind.MALFORMED_CALL,
        problem=f"made a tool call that its provider could not read (finish_reason {completion.finish_reason})",
        correction="Your last tool call could not be read. Make it again: the tool's name, and its arguments as a "
        f"JSON object. If you need no tool, {_FINAL}.",
    )


def _nothing_said(answer: Answer) -> Answer:
    if answer.cut:
        more = " with its reasoning alone" if answer.reasoning else ""
        return replace(
            answer,
            kind=Kind.LENGTH,
            problem=f"reached its length limit{more} before it answered (finish_reason length)",
            correction=f"You reached your length limit before you answered. Think less: call a tool, or {_FINAL}.",
        )
    if answer.reasoning:
        return replace(
            answer,
            kind=Kind.REASONING_ALONE,
            problem="gave its reasoning alone, and no answer",
            correction=f"You thought, but gave no answer. Call a tool, or {_FINAL}.",
        )
    return replace(
        answer,
        kind=Kind.EMPTY,
        problem="gave an empty answer",
        correction=f"Your last answer was empty. Call a tool, or {_FINAL}.",
    )


def _written_attempt(answer: Answer, tools: Sequence[ToolSpec]) -> Answer:
    names = ", ".join(tool.name for tool in tools)
    there_are = f"The tools are: {names}." if names else "This task has no tools: answer without them."
    return replace(
        answer,
        kind=Kind.WRITTEN_CALL,
        problem=f"wrote a tool call as text instead of making it: {_excerpt(answer.text)}",
        correction="Your last answer holds a tool call as text, which runs nothing. Make it with the API's own tool "
        f"calls, and write no markup. {there_are} If the text was your final answer, {_FINAL}.",
    )


def _speaking(completion: Completion) -> Message:
    """Return the message that repeats an answer without calls. It never is empty: some servers refuse that."""
    message = completion.to_message(())
    return message if message.content.strip() else replace(message, content="(no answer)")


def _own(
    calls: Sequence[ToolCall], tools: Sequence[ToolSpec], taken: Collection[str], new_id: NewId
) -> tuple[ToolCall, ...]:
    """Return the calls with their tools' own names, and with ids that the conversation has not."""
    names = [tool.name for tool in tools]
    used = set(taken)
    found = []
    for call in calls:
        name = resolve(call.written_name or call.name, names)
        call_id = call.call_id if call.call_id and call.call_id not in used else unused_id(used, new_id)
        used.add(call_id)
        found.append(replace(call, call_id=call_id, name=name or call.name))
    return tuple(found)


def _as_call(name: str, arguments: object, new_id: NewId) -> ToolCall:
    decoded = encodable(arguments) if isinstance(arguments, dict) else {}
    return ToolCall(new_id(), name, decoded, dumped(decoded) or "{}")


def _begins_final(text: str) -> bool:
    """Return whether a text is the final JSON object, whatever its texts quote."""
    stripped = text.strip()
    return stripped.startswith(("{", "```")) and final_object(stripped) is not None


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _EXCERPT_CHARS else f"{line[:_EXCERPT_CHARS]}…")
