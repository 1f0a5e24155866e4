"""Take what a model thought, and the tokens of its template, off its answer.

Models write their reasoning into the answer where the server does not take it out. A block at the beginning is
reasoning. Behind it, such a tag may be something that the answer speaks of, and only a block with lines of its own is
reasoning.
"""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple

MAX_CLOSERS = 50
"""Closing tags that are looked at in one text: each costs time in proportion to the text."""

_NAMES = (
    r"(?:(?:[\w-]{1,12}[:_])?(?:think|thinking|thought|thoughts|reasoning|scratchpad|reflection|antthinking)|"
    r"(?:thought|thinking)_process|in(?:n|t)er(?:nal)?_monologue|chain_of_thought)"
)

_OPENERS: tuple[tuple[str, str], ...] = (
    (rf"<({_NAMES})(?:\s[^<>]{{0,200}})?(?<!/)>", r"</\s*{0}\s*>"),
    (r"\[(THINK)\]", r"\[/THINK\]"),
    (r"<\|(begin_of_thought)\|>", r"<\|end_of_thought\|>"),
    (r"<\|(START_THINKING)\|>", r"<\|END_THINKING\|>"),
    (r"<\|(think|thinking|thought)\|>", r"<\|?/{0}\|?>|<\|end_of_{0}\|>"),
    (r"◁(think|thinking)▷", r"◁/{0}▷"),
    (r"<(unused94)>(?:thought)?", r"<unused95>"),
    (r"<\|(channel)\|?>\s*(?:thought|thinking|analysis)\b(?!\s*(?:<\|message|to=))", r"<channel\|>|<\|/channel\|?>"),
    (r"<details\s+type=\"(reasoning)\"[^<>]{0,200}>", r"</details>"),
)
_BLOCKS = tuple((re.compile(opener, re.IGNORECASE), closer) for opener, closer in _OPENERS)

_CLOSER_ALONE = re.compile(rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷", re.IGNORECASE)
_ANY_OPENER = re.compile(rf"<{_NAMES}(?:\s[^<>]{{0,200}})?>|\[THINK\]|◁think▷", re.IGNORECASE)

SPOKEN_OF = re.compile(
    r"[ \t]*(?:[,;/…]|and\b|or\b|tags?\b|blocks?\b|elements?\b|markers?\b|markup\b|sections?\b|is\b|are\b|was\b|"
    r"were\b|means\b|stands\b|has\b|used\b|opens\b|starts\b|begins\b|marks\b|wraps\b|tokens?\b|[和与或是、，]|标签|标记|块)",
    re.IGNORECASE,
)
"""How prose goes on behind a tag that it speaks of."""

_ENDS_LINE = re.compile(r"[ \t\r]*(?:\n|\Z)")

_HARMONY = re.compile(
    r"(?:<\|start\|>\s*assistant)?\s*(?:to=[\w.]+\s*)?<\|channel\|>\s*(\w+)([^<]*(?:<\|constrain\|>[^<]*)?)<\|message\|>"
    r"(.*?)(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|<\|channel\|>|\Z)(?:<\|end\|>|<\|return\|>|<\|call\|>)?\s*",
    re.DOTALL,
)
_HARMONY_BARE = re.compile(r"analysis(?=[A-Z\"'(])(.*?)assistant\s?(?:final|(?=commentary\s+to=))(.*)", re.DOTALL)
"""The same form from a server that shows no special tokens."""

_WRAPPED = re.compile(r"\s*<(answer|final_answer|response|final)>(.*?)(?:</\1>\s*)?\Z", re.DOTALL | re.IGNORECASE)
_SOLUTION = re.compile(r"\s*<\|begin_of_solution\|>(.*?)(?:<\|end_of_solution\|>\s*)?\Z", re.DOTALL)

_END_MARK = (
    r"(?:</s>|<eos>|\[\|endofturn\|\]|<\|end\|>|<\|assistant\|>|<\|end_of_box\|>|<\|im_end\|>|<\|eot_id\|>|<\|eom_id\|>|"
    r"<\|start_header_id\|>assistant<\|end_header_id\|>|<\|im_start\|>assistant|<\|endoftext\|>|<\|return\|>|"
    r"<\|end_of_text\|>|<end_of_turn>|<\|END_RESPONSE\|>|<\|END_OF_TURN_TOKEN\|>|<｜end▁of▁sentence｜>|<seed:eos>|\[e~\[|"
    r"<\|user\|>|<\|observation\|>)"
)
_END_MARKS = re.compile(rf"(?<!\s)(?P<gap>\s*){_END_MARK}(?:\s*{_END_MARK})*\s*\Z")

_BEGIN_TOKENS = re.compile(
    r"[\s\ufeff\u200b\u2060]*(?:(?:<\|im_start\|>\s*assistant|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>|"
    r"<\|START_RESPONSE\|>|<\|begin_of_box\|>|<\|assistant\|>|<\|begin_of_text\|>|\[\|assistant\|\])\s*|[\ufeff\u200b\u2060]\s*)+"
)
"""Tokens that begin a turn or an answer, where a server passes them on."""

_BLOCK_ANYWHERE = re.compile(rf"^[ \t]*<({_NAMES})>[ \t]*\n.*?^[ \t]*</\1>[ \t]*$", re.DOTALL | re.MULTILINE | re.I)


class Thought(NamedTuple):
    """A text, parted.

    Args:
        reasoning: what the model thought.
        answer: what it answered.
    """

    reasoning: str
    answer: str


# docs/decisions.md, D182
def split_thinking(text: str, *, cut: bool = False) -> Thought:
    """Part a model's text into its reasoning and its answer.

    Args:
        text: what the model wrote.
        cut: whether it ended at its length limit, so that its reasoning may have no end.
    """
    text = _without_begin_tokens(text)
    harmony = _split_harmony(text)
    if harmony is not None:
        return Thought(harmony.reasoning, _without_end_tokens(harmony.answer))
    thoughts: list[str] = []
    rest = text
    while (parted := _leading_block(rest, cut=cut)) is not None:
        thoughts.append(parted.reasoning)
        rest = parted.answer
    orphan = _before_lone_closer(rest)
    if orphan is not None:
        thoughts.append(orphan.reasoning)
        rest = orphan.answer
    rest = _without_end_tokens(_without_begin_tokens(rest))
    rest, later = _later_blocks(rest)
    thoughts += later
    if thoughts:
        wrapped = _WRAPPED.match(rest)
        rest = wrapped[2] if wrapped else rest
    solution = _SOLUTION.match(rest)
    rest = solution[1] if solution else rest
    return Thought("\n".join(thought.strip() for thought in thoughts), rest.strip() if thoughts else rest)


def without_thinking(text: str) -> str:
    """Return a model's text without its reasoning."""
    return split_thinking(text).answer


def for_json(text: str) -> str:
    """Return a model's text without its reasoning, to find a JSON object in it.

    Here blocks behind the beginning go too, if their tags stand on lines of their own: a draft is in them.
    """
    answer = split_thinking(text).answer
    if answer.lstrip()[:1] in ("{", "[") or "<" not in answer:
        return answer
    return _BLOCK_ANYWHERE.sub("", answer)


def _leading_block(text: str, *, cut: bool) -> Thought | None:
    """Part a text behind the block with which it begins; None where it begins with none."""
    stripped = text.lstrip()
    for opener, closer in _BLOCKS:
        opened = opener.match(stripped)
        if opened is None:
            continue
        body = stripped[opened.end() :]
        closed = _closer(body, re.compile(closer.format(re.escape(opened[1])), re.IGNORECASE))
        closed = closed or _closer(body, _CLOSER_ALONE)
        if closed is None:
            if not cut and (SPOKEN_OF.match(body) or not body.strip()):
                return None if body.strip() else Thought("", "")
            return Thought(body, "")
        inner, behind = body[: closed.start()], body[closed.end() :]
        if "\n" not in inner and len(inner) < 40 and SPOKEN_OF.match(behind):
            return None  # "<think>…</think> blocks are …"
        return Thought(inner, behind)
    return None


def _closer(body: str, pattern: re.Pattern[str]) -> re.Match[str] | None:
    """Return the end of a block: the first closing tag with a line to itself, at one end of it at least.

    A reasoning may speak of such tags too. What stands in quotes or backticks is never the end.
    """
    first = None
    for found in itertools.islice(pattern.finditer(body), MAX_CLOSERS):
        before, behind = body[found.start() - 1 : found.start()], body[found.end() : found.end() + 1]
        if before in ("`", '"', "'", "“", "「") and behind in ("`", '"', "'", "”", "」", ""):
            continue
        if before in ("", "\n") or _ENDS_LINE.match(body, found.end()):
            return found
        first = first or found
    return first


def _before_lone_closer(text: str) -> Thought | None:
    """Part a text at a closing tag without an opening one.

    The templates of Qwen and DeepSeek write the opening tag into the prompt, so that the answer begins behind it.
    """
    for found in itertools.islice(_CLOSER_ALONE.finditer(text), MAX_CLOSERS):
        before, behind = text[: found.start()], text[found.end() :]
        if _ANY_OPENER.search(before) or before.count("```") % 2:
            return None
        at_line_start = not before or before.endswith("\n")
        ends_line = _ENDS_LINE.match(behind) is not None
        glued = bool(re.search(r"[\w.!?。！？)\]]\Z", before)) and re.match(r"[A-Z{\[*#\u4e00-\u9fff]", behind)
        if (at_line_start and (ends_line or not SPOKEN_OF.match(behind))) or glued:
            return Thought(before, behind)
        if ends_line and not before.rstrip(" ").endswith(("`", '"', "'")) and behind.startswith("\n\n"):
            return Thought(before, behind)
    return None


def _split_harmony(text: str) -> Thought | None:
    """Part the channels of gpt-oss; None where the text has none. A call stays with its channel, for its reader."""
    stripped = text.strip()
    if stripped.startswith(("<|channel|>", "<|start|>")):
        thoughts, answers, end = [], [], 0
        for part in _HARMONY.finditer(stripped):
            if part.start() != end:
                break
            end = part.end()
            if "to=" in part[0].partition("<|message|>")[0]:
                answers.append(part[0].strip())
            elif part[1] == "final":
                answers.append(part[3])
            else:
                thoughts.append(part[3])
        if end:
            return Thought("\n".join(thoughts), "\n".join([*answers, stripped[end:]]).strip())
    bare = _HARMONY_BARE.fullmatch(stripped)
    return Thought(bare[1], bare[2].strip()) if bare else None


def _without_end_tokens(text: str) -> str:
    """Take the tokens off that end a turn, where a server passes them on."""
    found = _END_MARKS.search(text)
    if found and "</s>" in found[0] and "<s>" in text:
        return text  # HTML
    if found is None or (found["gap"] and "\n" not in found["gap"] and _GOES_ON.search(text[: found.start()])):
        return text  # "the token is <|im_end|>"
    return text[: found.start()]


_GOES_ON = re.compile(r"[\w,:：=]\Z")


def _without_begin_tokens(text: str) -> str:
    found = _BEGIN_TOKENS.match(text)
    return text[found.end() :] if found and not SPOKEN_OF.match(text, found.end()) else text


def _later_blocks(text: str) -> tuple[str, list[str]]:
    """Take the blocks off that a model wrote between the paragraphs of its answer; those that it quotes stay."""
    if "<" not in text or text.lstrip()[:1] in ("{", "[", "<"):
        return text, []
    thoughts: list[str] = []
    kept, place = "", 0
    for block in itertools.islice(_BLOCK_BETWEEN.finditer(text), MAX_CLOSERS):
        from pibot.llm_client.intent import quotes, speaks_of

        before = text[: block.start()]
        if before.count("```") % 2 or quotes(before) or speaks_of(before):
            continue
        thoughts.append(block[2])
        kept += text[place : block.start()]
        place = block.end()
    return kept + text[place:], thoughts


_THINK = r"(?:[\w-]{1,12}:)?think(?:ing)?"
"""The tags that no document is likely to have."""

_BLOCK_BETWEEN = re.compile(
    rf"^<({_THINK})>((?:(?!</?{_THINK}>).)*)</\1>[ \t]*(?:\n+|\Z)", re.DOTALL | re.MULTILINE | re.I
)
