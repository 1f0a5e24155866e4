"""Decide whether a text calls tools, tries to, or only speaks of such calls."""

from __future__ import annotations

import enum
import html
import re
from collections.abc import Sequence
from typing import NamedTuple

from pibot.contracts import ToolSpec
from pibot.llm_client.call_forms import WrittenCall, calls_in_text, end_of_json
from pibot.llm_client.injected import is_injected
from pibot.llm_client.intent import announces, quotes, speaks_of
from pibot.llm_client.loose_calls import MAX_CHARS, read_loose
from pibot.llm_client.text_calls import Markup, find_bare_call, find_markup
from pibot.llm_client.thinking import SPOKEN_OF
from pibot.llm_client.tool_names import resolve

MAX_TEXT_CHARS = 200_000
"""Characters of the longest text in which calls are looked for; a longer one is an answer."""

MAX_LOOKS = 50
"""Markups of one text that are looked at."""

MAX_PROSE_CHARS = 1500
"""Characters of prose before a call in JSON, which has no tags: behind a longer one it is an example."""


class Verdict(enum.Enum):
    """What a text is."""

    PROSE = "prose"
    CALLS = "calls"
    ATTEMPT = "attempt"
    """It looks like a call that its model meant, and can't be taken for one safely."""


class Written(NamedTuple):
    """A text, read.

    Args:
        verdict: what it is.
        calls: with their tools' own names.
        before: the text before the calls.
    """

    verdict: Verdict
    calls: tuple[WrittenCall, ...] = ()
    before: str = ""


_PROSE = Written(Verdict.PROSE)
_ATTEMPT = Written(Verdict.ATTEMPT)

_CODE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[ \t]*$|\Z)|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_LEFTOVER = re.compile(
    r"\s*(?:<\|?/?(?:tool_calls?|function_calls?|seed:tool_call|eom_id|eot_id|im_end|tool_call_end|end|call|return|s)\|?>\s*|\[\|endofturn\|\]\s*|```\s*)*\Z",
    re.IGNORECASE,
)
_LONE_END = re.compile(r"(?<!\s)\s*</(?:[\w-]+:)?(?:tool_call|function_call|tool_calls)>\s*\Z", re.IGNORECASE)
_INVENTED_RESULT = re.compile(
    r"\s*(?:<\|?/?(?:tool_response|tool_result|tool_output|function_results?|observation|result|ipython)|\[TOOL_RESULTS\]|"
    r"\**(?:Observation|Tool (?:output|response|result)|Output|Result|Response)\**\s*:|<｜tool▁output)",
    re.IGNORECASE,
)


# docs/decisions.md, D180
def read_written(text: str, tools: Sequence[ToolSpec], data: Sequence[str] = ()) -> Written:
    """Read what a model wrote instead of a tool call, or about one.

    Args:
        text: without the model's reasoning.
        tools: the task's own.
        data: texts that the model was given: the task, then what the tools gave. What it repeats from them is a
            quotation, whoever wrote it.
    """
    written = _read(text, tools, data)
    return _ATTEMPT if any(is_injected(call, data[1:]) for call in written.calls) else written


def _read(text: str, tools: Sequence[ToolSpec], data: Sequence[str]) -> Written:
    if len(text) > MAX_TEXT_CHARS or not text.strip():
        return _PROSE
    code = [found.span() for found in _CODE.finditer(text)]
    place = 0
    for _ in range(MAX_LOOKS):
        markup = find_markup(text, place)
        if markup is None:
            return _read_bare(text, tools, data)
        if not markup.calls and SPOKEN_OF.match(text, markup.inner):
            place = markup.inner
            continue
        fence = next((span for span in code if span[0] <= markup.start < span[1]), None)
        if fence is None:
            run, quoted = _run_of(text, markup, data)
            return _read_tagged(text, run, tools, quoted)
        if text[fence[0]] in "`~" and text[fence[0] : fence[0] + 3] in ("```", "~~~") and not text[fence[1] :].strip():
            return _read_fenced(text, fence[0], markup, tools, data)
        place = max(fence[1], markup.start + 1)
    return _PROSE


def _run_of(text: str, markup: Markup, data: Sequence[str]) -> tuple[Markup, bool]:
    """Return the markup with those that follow it directly, and whether one of them is a quotation."""
    quoted = _is_quotation(text[markup.start : markup.end], data)
    calls = list(markup.calls)
    end, readable = markup.end, bool(markup.calls)
    for _ in range(MAX_LOOKS):
        following = find_markup(text, end)
        if following is None or text[end : following.start].strip():
            break
        quoted = quoted or _is_quotation(text[following.start : following.end], data)
        calls += following.calls
        readable = readable and bool(following.calls)
        end = following.end
    return Markup(markup.start, end, tuple(calls) if readable else ()), quoted


def _read_tagged(text: str, markup: Markup, tools: Sequence[ToolSpec], from_data: bool) -> Written:
    before, behind = text[: markup.start], text[markup.end :]
    alone = not before.strip()
    line = before.rpartition("\n")[2]
    inline = bool(line.strip()) and not re.search(r"[.!?:…。！？：)*]\s*\Z", line)
    if from_data:
        return _ATTEMPT if alone and _LEFTOVER.match(behind) else _PROSE
    quoted, announced = quotes(before), announces(before)
    told = not alone and (quoted or speaks_of(before))
    if (told or (inline and not alone)) and not announced:
        return _PROSE
    if _LEFTOVER.match(behind):
        calls = None if told else _resolved(markup.calls, tools)
        return _ATTEMPT if calls is None else Written(Verdict.CALLS, calls, before.rstrip())
    if _INVENTED_RESULT.match(behind):
        return _ATTEMPT
    if alone and not behind.partition("\n")[0].strip():
        return _ATTEMPT
    return _ATTEMPT if announced and not quoted else _PROSE


def _read_fenced(text: str, start: int, markup: Markup, tools: Sequence[ToolSpec], data: Sequence[str]) -> Written:
    """Read markup in a code fence with which a text ends."""
    before = text[:start]
    if _is_quotation(text[markup.start : markup.end], data):
        return _PROSE
    calls = _resolved(markup.calls, tools)
    if before.strip() and (quotes(before) or not announces(before)):
        return _PROSE
    if not before.strip() and calls is None:
        return _PROSE
    return _ATTEMPT if calls is None else Written(Verdict.CALLS, calls, before.rstrip())


def _read_bare(text: str, tools: Sequence[ToolSpec], data: Sequence[str]) -> Written:
    """Read a text without tags, which is or ends with JSON, ``Action:`` or a call of Python."""
    text = _LONE_END.sub("", text)  # the template wrote the opening tag into the prompt
    markup = find_bare_call(text)
    if markup is None or (not text[: markup.start].strip() and _resolved(markup.calls, tools) is None):
        loose = read_loose(text, {tool.name: tool for tool in tools})
        if loose is not None and not _is_quotation(text, data):
            return _ATTEMPT if isinstance(loose.arguments, str) else Written(Verdict.CALLS, (loose,))
    if markup is None:
        return _ATTEMPT if _is_call_with_more(text, tools) and not _is_quotation(text, data) else _PROSE
    before = text[: markup.start]
    if _is_quotation(text[markup.start : markup.end], data):
        return _PROSE
    calls = _resolved(markup.calls, tools)
    if not before.strip():
        if calls is not None:
            return Written(Verdict.CALLS, calls)
        certain = text.lstrip()[:1] in ("{", "[", "`") and all(map(_is_tool_like, markup.calls))
        named = bool(markup.calls) and all(resolve(call.name, [tool.name for tool in tools]) for call in markup.calls)
        return _ATTEMPT if tools and (certain or named) else _PROSE
    if len(before) > MAX_PROSE_CHARS or ((quotes(before) or speaks_of(before)) and not announces(before)):
        return _PROSE
    if calls is None:
        return _PROSE
    if quotes(before) or speaks_of(before) or not announces(before):
        return _ATTEMPT
    return Written(Verdict.CALLS, calls, before.rstrip())


def _is_call_with_more(text: str, tools: Sequence[ToolSpec]) -> bool:
    """Return whether a text is a call in JSON with an invented result, or ends like a call in XML or in words."""
    stripped = text.strip()
    end = end_of_json(stripped, 0)
    if end and _INVENTED_RESULT.match(stripped, end):
        return bool(_resolved(tuple(calls_in_text(stripped[:end])), tools))
    specs = {tool.name: tool for tool in tools}
    element = _ELEMENT_AT_END.search(stripped, max(0, len(stripped) - MAX_CHARS)) if stripped.endswith(">") else None
    if element is not None and element[1] in specs:
        before = stripped[: element.start()]
        names = specs[element[1]].parameters.get("properties") or {}
        return any(f"<{name}>" in element[0] for name in names) and not (quotes(before) or speaks_of(before))
    words = _NAMED_IN_WORDS.fullmatch(stripped) if len(stripped) <= MAX_CHARS else None
    return words is not None and resolve(words[1], specs) is not None and not quotes(stripped) and _is_json(words[2])


def _is_json(text: str) -> bool:
    return end_of_json(text, 0) == len(text)


_ELEMENT_AT_END = re.compile(r"^<([\w-]{2,64})>\s*<[\w-]{1,64}>[^`]*</\1>\Z", re.MULTILINE)
_NAMED_IN_WORDS = re.compile(
    r"(?:[^\n.]{0,80}\b(?:call|calling|use|using|invoke|invoking|run|running|execute|executing)\b)\s+(?:the\s+)?"
    r"(?:tool\s+|function\s+)?[`\"'*]{0,3}([\w.]{1,64})[`\"'*]{0,3}(?:\s+(?:tool|function))?\s+with\b[^\n{]{0,60}\s*(\{.*\})",
    re.DOTALL | re.IGNORECASE,
)


def _is_tool_like(call: WrittenCall) -> bool:
    """Return whether JSON can hardly be anything but a call, though there is no such tool."""
    return isinstance(call.arguments, dict) and bool(re.fullmatch(r"[a-z]+(?:[._][a-z]+)+", call.name))


def _resolved(calls: Sequence[WrittenCall], tools: Sequence[ToolSpec]) -> tuple[WrittenCall, ...] | None:
    """Return the calls with the tools' own names; None where one is not the task's, or can't be read."""
    specs = {tool.name: tool for tool in tools}
    found = []
    for call in calls:
        name = resolve(call.name, specs)
        if name is None:
            return None
        arguments = call.arguments
        if isinstance(arguments, str):
            required: Sequence[str] = specs[name].parameters.get("required") or ()
            if arguments.strip().lower() in ("", "none", "null", "n/a"):
                arguments = {}
            elif len(required) == 1 and not arguments.lstrip().startswith(("{", "[")):
                arguments = {required[0]: arguments}
            else:
                return None
        found.append(WrittenCall(name, arguments))
    return tuple(found) or None


def _is_quotation(markup: str, data: Sequence[str]) -> bool:
    """Return whether the model was given this markup, in JSON or HTML maybe, and so repeats it."""
    wanted = _squeezed(markup)
    return bool(wanted) and any(wanted in _squeezed(text) for text in data)


def _squeezed(text: str) -> str:
    return "".join(html.unescape(text).replace("\\", "").split())
