"""Read the steps of a plan: their ids, what they need, their skills."""

from __future__ import annotations

import graphlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pibot.contracts import SubTask
from pibot.contracts.validation import MAX_SKILLS_PER_TASK, MAX_TASK_TIMEOUT
from pibot.errors import InvalidRequest, PlanError
from pibot.llm_client.thinking import without_thinking
from pibot.master_components.planner import wording

MAX_ID_CHARS = 40

_SEPARATORS = re.compile(r"[,;，；、\n&+]|\band\b|\bund\b|\bet\b|\by\b|和")
_OR_BARS = re.compile(r"[|/]|\bor\b|\boder\b|或")
_BEFORE_A_NAME = re.compile(
    r"(?:(?:the\s)?(?:output|result)s?\s(?:of|from)\s|after\s|completion of\s)?"
    r"(?:(?:sub)?task|step)?(?:[_\s-]?id)?\s?[:#]?\s?",
    re.IGNORECASE,
)
_BEHIND_A_NAME = re.compile(r"\s?\(.*\)|\s?[:：].*|\s[–—-]\s.*|\.(?:output|result)s?", re.DOTALL)
"""What models write around the name of a step or a skill, such as ``step a (List the files)``."""


@dataclass
class _Step:
    """A step as the model wrote it.

    Args:
        number: from 1.
        label: the model's id; None if it gave none.
        names: what else the step is called.
    """

    number: int
    fields: Mapping[str, Any]
    description: str
    label: str | None
    names: tuple[str, ...]
    task_id: str = ""


@dataclass(frozen=True)
class EarlierSteps:
    """The steps of a job's earlier plans.

    Args:
        finished: the descriptions of the completed ones, by id. Further steps may need them.
        ids: of all of them.
    """

    finished: Mapping[str, str] = field(default_factory=dict)
    ids: frozenset[str] = frozenset()


NO_STEPS = EarlierSteps()


def is_step(data: object) -> bool:
    """Return whether a value looks like a step: it says what to do, and has another field of a step."""
    if not isinstance(data, dict):
        return False
    fields = wording.fields_of(data)
    used, description = _description(fields)
    others = {*wording.ID, *wording.NUMBER, *wording.NAME, *wording.SKILLS, *wording.NEEDS} - {used}
    return description != "" and not others.isdisjoint(fields)


def read_steps(steps: Sequence[Any], skills: Sequence[str], earlier: EarlierSteps = NO_STEPS) -> tuple[SubTask, ...]:
    """Read the steps of a plan.

    Args:
        steps: as the model wrote them.
        skills: the skills that they may name.
        earlier: the steps of the job's earlier plans; a finished one that is in the list again is left out.

    Raises:
        PlanError: a step is unusable or ambiguous; the message is written for the model.
    """
    parsed = _parsed(steps)
    again = {wording.folded(step.label): name for step in parsed if step.label for name in _finished(step, earlier)}
    read = [step for step in parsed if not _finished(step, earlier)]
    if not read:
        raise PlanError("each of the subtasks is finished already; name further ones, or set handle_locally")
    ids = _Ids(_with_ids(read, earlier.ids), {**{wording.folded(name): name for name in earlier.finished}, **again})
    made = []
    for step in read:
        timeout = step.fields.get("timeout")
        usable = isinstance(timeout, (int, float)) and not isinstance(timeout, bool) and 0 < timeout <= MAX_TASK_TIMEOUT
        body = {
            "task_id": step.task_id,
            "description": step.description,
            "skills": _skills(step, skills),
            "depends_on": ids.needs_of(step),
            "timeout": timeout if usable else None,
        }
        try:
            made.append(SubTask.from_json(body))
        except InvalidRequest as exc:
            raise PlanError(f"subtask {step.number}: {exc}") from exc
    _check_graph(made)
    return tuple(made)


def _parsed(steps: Sequence[Any]) -> list[_Step]:
    read: list[_Step] = []
    for number, data in enumerate(steps, 1):
        if not isinstance(data, dict):
            raise PlanError(f"subtask {number} must be an object")
        if data in steps[: number - 1]:
            continue  # the same step twice
        fields = wording.fields_of(data)
        if any(isinstance(fields.get(name), list) and fields[name] for name in ("subtasks", "steps")):
            raise PlanError(f"subtask {number} holds subtasks of its own; write one list")
        used, description = _description(fields)
        if not wording.has_words(description):
            raise PlanError(f"subtask {number}: description must be a text that says what to do")
        names = [str(value) for name, value in wording.given(fields, wording.NAME)]
        label = _label(fields, used)
        read.append(_Step(number, fields, description, label, (*names, description)))
    return read


def _description(fields: Mapping[str, Any]) -> tuple[str, str]:
    """Return the name and the text of the field that says what to do; empty texts if there is none."""
    for name in (*wording.DESCRIPTION, *wording.NAME):
        value = fields.get(name)
        if isinstance(value, list) and value and all(isinstance(line, str) for line in value):
            value = "\n".join(value)
        if isinstance(value, str) and value.strip():
            return name, without_thinking(value)
    return "", ""


def _label(fields: Mapping[str, Any], used: str) -> str | None:
    """Return the id that the model gave a step. A name is one if there is no other."""
    for name, value in wording.given(fields, (*wording.ID, *wording.NUMBER, *wording.NAME)):
        label = _text_of(value)
        if name != used and label:
            return label
    return None


def _text_of(value: object) -> str:
    """Return an id or a name as text: 1 and 1.0 are "1"."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _plain(label: str) -> str:
    """Return a usable id: "Step one" becomes "step-one"; empty if nothing is left of it."""
    letters = unicodedata.normalize("NFKD", label).lower()
    letters = "".join(char for char in letters if not unicodedata.combining(char))
    return re.sub(r"[^a-z0-9]+", "-", letters).strip("-")[:MAX_ID_CHARS].strip("-")


def _with_ids(steps: list[_Step], earlier: Collection[str]) -> list[_Step]:
    """Give each step its id: the model's own where it is usable, else its number.

    Raises:
        PlanError: two steps have the same id, or one has no letter or digit.
    """
    labels: set[str] = set()
    taken = set(earlier)
    numbered = []
    for step in steps:
        if step.label is None:
            numbered.append(step)
            continue
        if wording.folded(step.label) in labels:
            raise PlanError(f"two subtasks have the task_id {step.label!r}")
        if not any(map(str.isalnum, step.label)):
            raise PlanError(f"subtask {step.number} needs a task_id of letters and digits")
        labels.add(wording.folded(step.label))
        step.task_id = _plain(step.label)
        if step.task_id in earlier:  # another try of a step has an id of its own
            again = step.task_id[: MAX_ID_CHARS - 3]
            step.task_id = next(name for name in (f"{again}-{n}" for n in count(2)) if name not in taken)
        if not step.task_id or step.task_id in taken:  # an id of other letters, or one that is only similar
            numbered.append(step)
        else:
            taken.add(step.task_id)
    for step in numbered:
        step.task_id = next(name for name in _numbered(step.number) if name not in taken)
        taken.add(step.task_id)
    return steps


def _numbered(number: int) -> Iterator[str]:
    yield f"step-{number}"
    yield from (f"step-{number}-{again}" for again in count(2))


class _Ids:
    """Finds the steps that a ``depends_on`` means."""

    def __init__(self, steps: Sequence[_Step], finished: Mapping[str, str]) -> None:
        own = {wording.folded(step.label): step.task_id for step in steps if step.label is not None}
        self._by_label = {**finished, **own}
        self._steps = steps
        self._known = {step.task_id for step in steps} | set(finished.values())
        self._first = 1
        if all(step.label is None for step in steps):
            wanted = [_text_of(need) for step in steps for need in _listed(step.fields)]
            self._first = 0 if "0" in wanted else 1

    def needs_of(self, step: _Step) -> list[str]:
        """Return the ids of the steps that a step needs.

        Raises:
            PlanError: one is no step, or may be several.
        """
        found: list[str] = []
        for need in _listed(step.fields):
            if isinstance(need, dict):
                need = next((value for _, value in wording.given(wording.fields_of(need), wording.ID)), need)
            said = _text_of(need)
            one = self._find(said) or self._find(_bare(said))
            several = [one] if one is not None else self._several(said)
            if several is None or (not said and not isinstance(need, str)):
                raise PlanError(
                    f"subtask {step.label or step.number!r} depends on {need!r}, which is no subtask; "
                    "depends_on must be a list of task_ids"
                )
            found += several
        return found

    def _several(self, said: str) -> list[str] | None:
        """Return the ids in a text that names none or several; None if it names something else."""
        if said.casefold().rstrip(".") in wording.NOTHING:
            return []
        parts = [part.strip(" \t[]()'\"") for part in _SEPARATORS.split(said)]
        ids = [self._find(part) for part in parts if part]
        known = [name for name in ids if name is not None]
        return known if known and len(known) == len(ids) else None

    def _find(self, said: str) -> str | None:
        if not said:
            return None
        label = wording.folded(said)
        if label in self._by_label:
            return self._by_label[label]
        if _plain(said) in self._known and any(char.isascii() and char.isalpha() for char in said):
            return _plain(said)
        named = [step.task_id for step in self._steps if label in map(wording.folded, step.names)]
        if len(named) == 1:
            return named[0]
        return self._by_number(label)

    def _by_number(self, label: str) -> str | None:
        """Find the one step with the number at the end of a text, such as "step 2" for the id "s2"."""
        match = re.fullmatch(r"(?:[^\d]*[^\d.])?(\d{1,4})", label)
        if match is None:
            return None
        wanted = int(match[1])
        if all(step.label is None for step in self._steps):
            place = wanted - self._first
            return self._steps[place].task_id if 0 <= place < len(self._steps) else None
        found = [
            step.task_id
            for step in self._steps
            if step.label is not None and re.fullmatch(rf"\D*0*{wanted}[.):]?", wording.folded(step.label))
        ]
        return found[0] if len(found) == 1 else None


def _listed(fields: Mapping[str, Any]) -> list[Any]:
    """Return the needs of a step as a list.

    Raises:
        PlanError: they are no list and no text.
    """
    for _, needs in wording.given(fields, wording.NEEDS):
        if needs is False or needs == {}:
            continue
        if isinstance(needs, list):
            inner = (need if isinstance(need, list) else [need] for need in needs)
            return [need for some in inner for need in some if need is not None]
        if isinstance(needs, (str, int, float, dict)) and not isinstance(needs, bool):
            return [needs]
        raise PlanError("depends_on must be a list of task_ids")
    return []


def _skills(step: _Step, skills: Sequence[str]) -> list[str]:
    """Return the skills of a step. One that says nothing of skills gets all, as a job without a plan does.

    Raises:
        PlanError: it names an unknown skill.
    """
    wanted = next((value for _, value in wording.given(step.fields, wording.SKILLS)), None)
    if isinstance(wanted, str) and wanted.strip().casefold() in ("all", "any", "all skills"):
        wanted = None
    if isinstance(wanted, dict):
        wanted = [name for name, needed in wanted.items() if needed is True] or wanted
    if wanted is None:
        return list(skills[:MAX_SKILLS_PER_TASK])
    known = {re.sub(r"[\W_]+", "", name).casefold(): name for name in skills}
    found: list[str] = []
    for named in wanted if isinstance(wanted, list) else [wanted or ""]:
        named = "" if named is None else named
        if isinstance(named, dict):
            named = next(
                (value for _, value in wording.given(wording.fields_of(named), ("name", "skill", "id"))), named
            )
        if not isinstance(named, str):
            raise PlanError(f"subtask {step.number}: skills must be a list of skill names")
        found += _named_skills(named, known, step, skills)
    return list(dict.fromkeys(found))


def _named_skills(named: str, known: Mapping[str, str], step: _Step, skills: Sequence[str]) -> list[str]:
    """Read a text that names one skill, several or none."""

    def find(name: str) -> str | None:
        last = re.split(r"[.:/]", name.strip(" \t[]()'\""))[-1]
        return known.get(re.sub(r"[\W_]+", "", last).casefold())

    if named.strip().casefold().rstrip(".") in wording.NOTHING:
        return []
    each = [find(part) for part in _OR_BARS.split(named)]
    if len(each) > 1 and None not in each:
        return [skill for skill in each if skill is not None]
    one = find(named) or find(_BEHIND_A_NAME.sub("", named[: wording.LONGEST_PLACE], count=1))
    if one is not None:
        return [one]
    found = []
    for part in filter(str.strip, _SEPARATORS.split(named)):
        skill = find(part)
        if skill is None:
            there_are = ", ".join(skills) or "none"
            raise PlanError(f"subtask {step.number} names the skill {part.strip()!r}; the skills are: {there_are}")
        found.append(skill)
    return found


def _bare(said: str) -> str:
    """Return a name without what models write around it."""
    said = said[: wording.LONGEST_PLACE]
    before = _BEFORE_A_NAME.match(said)
    return _BEHIND_A_NAME.sub("", said[before.end() if before else 0 :], count=1).strip()


def _finished(step: _Step, earlier: EarlierSteps) -> list[str]:
    """Return the id of the finished step that does the same, if there is one."""
    said = wording.folded(step.description)
    same = [name for name, description in earlier.finished.items() if wording.folded(description) == said]
    return same[:1]


def _check_graph(steps: Sequence[SubTask]) -> None:
    try:
        graphlib.TopologicalSorter({step.task_id: set(step.depends_on) for step in steps}).prepare()
    except graphlib.CycleError as exc:
        raise PlanError(f"the subtasks wait for each other in a circle: {' → '.join(exc.args[1])}") from exc
