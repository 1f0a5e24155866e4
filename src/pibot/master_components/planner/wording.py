"""The words that models use in a plan, beside those of the schema."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

from pibot.contracts import TaskComplexity

STEPS = ("subtasks", "steps", "tasks", "plan", "subtasklist", "steplist", "tasklist", "plansteps", "步骤", "子任务")
LOCALLY = ("handlelocally", "local", "locally", "answerlocally", "handledlocally")
ANSWER = ("answer", "directanswer", "finalanswer", "response", "reply")
COMPLEXITY = ("complexity", "difficulty")
REASONING = ("reasoning", "reason", "rationale", "explanation")

ID = ("taskid", "stepid", "subtaskid", "id", "key")
NUMBER = ("number", "no", "nr", "index", "stepnumber", "order", "step", "task")
NAME = ("name", "title", "label")
DESCRIPTION = ("description", "instruction", "instructions", "task", "step", "prompt", "goal", "objective", "todo",
               "action", "what", "details", "content", "描述", "任务")  # fmt: skip
SKILLS = ("skills", "skill", "requiredskills", "skillsneeded", "neededskills", "tools", "tool", "技能")
NEEDS = ("dependson", "dependencies", "dependency", "depends", "deps", "requires", "needs", "after", "prerequisites",
         "blockedby", "依赖")  # fmt: skip

NOTHING = frozenset(
    {"", "-", "–", "—", "[]", "()", "{}", "none", "null", "nil", "no", "nothing", "n/a", "na", "empty", "无", "没有"}
    | {
        f"{no} {what}"
        for no in ("no", "none")
        for what in ("needed", "required", "dependencies", "dependency", "skills")
    }
    | {
        "no skill",
        "no skills needed",
        "no skills required",
        "no tools",
        "no tools needed",
        "not applicable",
        "none yet",
    }
)
"""Texts that stand for an empty list."""

COMPLEXITIES: Mapping[str, TaskComplexity] = {
    **dict.fromkeys(("simple", "easy", "low", "trivial", "basic", "small", "简单"), TaskComplexity.SIMPLE),
    **dict.fromkeys(
        ("moderate", "medium", "mid", "middle", "normal", "average", "intermediate", "中等"), TaskComplexity.MODERATE
    ),
    **dict.fromkeys(
        ("complex", "complicated", "hard", "high", "difficult", "advanced", "large", "复杂"), TaskComplexity.COMPLEX
    ),
}

_YES = frozenset({"true", "yes", "1", "y", "on"})
_NO = frozenset({"false", "no", "0", "n", "off"})

_EXAMPLE = re.compile(
    r"example|e\.g\.|for instance|sample|such as|illustrat|otherwise|would have|for reference|template|schema"
    r"|例如|比如|示例|样例|例えば|beispiel|z\. ?b\.|exemple|ejemplo|esempio|exemplo|пример",
    re.IGNORECASE,
)
_MEANT = re.compile(
    r"final|actual|real|correct|instead|now|revised|improved|最终|正确|endgültig|définitif", re.IGNORECASE
)
EXAMPLE_CHARS = 100
"""Characters before an object in which a word says that it is an example."""


def folded(text: str) -> str:
    """Return a text without differences of case, width, and of blanks, hyphens and underscores."""
    return re.sub(r"[\s_\-‐-―]+", "-", unicodedata.normalize("NFKC", text).strip().casefold())


def fields_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object's values by names of letters and digits alone: ``dependsOn`` and ``depends_on`` are the same."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found.setdefault(re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", str(key))).casefold(), value)
    return found


def given(fields: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """Return the fields among ``names`` that are there, in the order of ``names``."""
    return ((name, fields[name]) for name in names if fields.get(name) is not None)


def truth(value: object) -> bool | None:
    """Read yes or no; None for anything else."""
    word = str(value).strip().casefold()
    return True if word in _YES else False if word in _NO else None


def is_example(before: str) -> bool:
    """Return whether the text before an object calls it an example."""
    near = before[-EXAMPLE_CHARS:]
    return bool(_EXAMPLE.search(near)) and not _MEANT.search(near)


def has_words(text: object) -> bool:
    """Return whether a text says something: ``...`` and ``<what to do>`` only hold a place."""
    return isinstance(text, str) and any(char.isalnum() for char in text) and not is_place(text)


LONGEST_PLACE = 500
"""Characters of a place for words, and of a name with what stands around it."""


def is_place(text: str, *, brackets: bool = True) -> bool:
    """Return whether a text only holds a place for another one: dots, or the name of its type.

    Args:
        brackets: so does anything in brackets.
    """
    places = r"[.…\s]+|string(?:\s?(?:or|\|)\s?null)?|<[^<>]*answer[^<>]*>"
    places += r"|<[^<>]*>|\{[^{}]*\}|\[[^\[\]]*\]" if brackets else ""
    return len(text) <= LONGEST_PLACE and re.fullmatch(rf"\s*(?:{places})\s*", text, re.IGNORECASE) is not None
