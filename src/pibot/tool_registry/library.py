"""The skills of a machine: folders that hold a ``SKILL.md`` and a ``tools.py``.

``SKILL.md`` follows the Agent Skills format (https://agentskills.io/specification): front matter with ``name`` and
``description``, then the instructions for the model.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import itertools
import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from pibot.contracts import ToolContext
from pibot.errors import SettingsError, SkillError, UnknownSkill
from pibot.tool_registry.kept_outputs import KeptOutputs
from pibot.tool_registry.policy import Policy, SkillRules, context_for, read_rules
from pibot.tool_registry.room import CALL_MB, MemoryRoom
from pibot.tool_registry.signature import read_signature
from pibot.tool_registry.toolbox import ApprovalGate, Tool, Toolbox

log = logging.getLogger("pibot.tools")

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*(?:\r?\n|\Z)(.*)\Z", re.DOTALL)
# A plain scalar of YAML: it begins with a letter, and holds neither ": " nor " #", which are looked for besides.
_PLAIN = re.compile(r"---\n+name: ([a-z][a-z0-9_-]*)\ndescription: ([A-Za-z][\x20-\x7e]{10,})\n+---[ \t]*(?:\n|\Z)")
_NO_TEXT = ("true", "false", "null")
_MAX_SKILL_BYTES = 100_000
APPROVED_NOTE = (
    "Commands of calls that the owner approves have / as their home directory: use paths relative to the task's "
    "folder, not ~. Python finds your own modules there with PYTHONPATH=. before the command."
)
"""Told to the model where a tool needs approval; see :data:`pibot.tool_registry.policy.APPROVED_ENVIRONMENT`."""
_serial = itertools.count(1)

NO_MORE = Policy()
"""The policy of an owner who allows nothing beyond what every skill may do."""


@dataclass(frozen=True)
class SkillInfo:
    """A skill's name and description, for the planner and for people."""

    name: str
    description: str


@dataclass(frozen=True)
class _Page:
    """The content of a ``SKILL.md``."""

    description: str
    instructions: str
    rules: SkillRules


class SkillLibrary:
    """The skills in one folder. Only :meth:`load` imports any code, and only that of the named skills.

    Args:
        directory: the folder whose sub-folders are the skills. If it does not exist, there are no skills.
        policy: what the owner allows skills to do.
    """

    def __init__(self, directory: Path, policy: Policy = NO_MORE) -> None:
        self._directory = directory
        self._policy = policy
        self._room = MemoryRoom()
        self._pages: dict[str, tuple[tuple[int, int, int], _Page]] = {}
        self._well_formed: dict[str, tuple[int, int, int]] = {}
        self._left_out: dict[str, str] = {}  # the warnings that were given, by the skill's name

    def names(self) -> tuple[str, ...]:
        """Return the names of the skills, sorted. One whose ``SKILL.md`` is malformed is left out, with a warning."""
        return tuple(name for name in self._folders() if self._is_skill(name))

    def _folders(self) -> tuple[str, ...]:
        try:
            folders = sorted(entry.name for entry in self._directory.iterdir() if _NAME.match(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as exc:
            raise SkillError(f"the skills' folder can't be read: {exc}") from exc
        return tuple(name for name in folders if self._is_there(name))

    def check(self, names: Iterable[str]) -> None:
        """Check that this machine has every skill in ``names``.

        Raises:
            UnknownSkill: one is missing; the error lists the skills that are here.
        """
        for name in names:
            if not (_NAME.match(name) and self._is_skill(name)):
                raise UnknownSkill(name, self.names())

    def check_policy(self) -> None:
        """Check that every name in ``PIBOT_APPROVE`` is one of a skill here or of a tool of one. Imports no skill.

        A misspelt name there would let the calls run that the owner wanted to see first. One in
        ``PIBOT_NETWORK_SKILLS`` is only warned of.

        Raises:
            SettingsError: a name is unknown; the message lists the names that there are.
        """
        skills = self._folders()  # a malformed skill is no misspelling
        for name in sorted(self._policy.network_skills.difference(skills)):
            # It allows nothing, so no start needs to stop for it; one setting may serve workers with other skills.
            log.warning("PIBOT_NETWORK_SKILLS names %r, which is no skill here; %s", name, _listed(skills=skills))
        asked = self._policy.approve.difference(skills)
        tools = sorted({tool for skill in skills for tool in self._tool_names(skill)}) if asked else ()
        for name in sorted(asked.difference(tools)):
            raise SettingsError(
                f"PIBOT_APPROVE names {name!r}, which is neither a skill nor a tool here, so no call would wait; "
                f"{_listed(skills=skills, tools=tools)}"
            )

    def _tool_names(self, skill: str) -> Iterable[str]:
        """Return the names of the skill's public functions, without running it; none if it is no Python."""
        try:
            module = ast.parse((self._directory / skill / "tools.py").read_text("utf-8", "replace"))
        except OSError as exc:
            raise SkillError(f"a skill can't be read: {exc}") from exc
        except (SyntaxError, ValueError):
            return ()
        return _functions(module.body)

    def describe(self) -> tuple[SkillInfo, ...]:
        """Return name and description of every skill, from its front matter."""
        return tuple(SkillInfo(name, self._page(name).description) for name in self.names())

    def load(
        self,
        names: Sequence[str],
        context: ToolContext,
        approvals: ApprovalGate | None = None,
        outputs: KeptOutputs | None = None,
    ) -> Toolbox:
        """Import the skills of one task and make its toolbox.

        Each call imports anew, so that a module's globals carry nothing from one task to another. Python caches the
        compiled code, so this takes a few milliseconds a skill.

        Args:
            names: the skills; a name given twice counts once.
            context: the context for the tools; they get its options read-only.
            approvals: asks the owner about calls that need approval.
            outputs: keeps the whole of results that are cut.

        Raises:
            UnknownSkill: this machine does not have a skill.
            SkillError: a skill is unusable; the message names the file and what is wrong in it.
        """
        names = tuple(dict.fromkeys(names))
        for name in names:
            if not (_NAME.match(name) and self._is_there(name)):
                raise UnknownSkill(name, self.names())
        tools: dict[str, Tool] = {}
        instructions = []
        context = replace(context, options=MappingProxyType(dict(context.options)))
        for name in names:
            page = self._page(name)
            if page.instructions:
                instructions.append(f"## Skill {name}\n\n{page.instructions}")
            for tool in self._tools(name, page.rules, context):
                if tool.name in tools:
                    raise SkillError(
                        f"the skills {tools[tool.name].skill!r} and {name!r} both have a tool {tool.name!r}; "
                        "rename one, or don't use them in one task"
                    )
                tools[tool.name] = tool
        if any(tool.needs_approval for tool in tools.values()):
            instructions.append(APPROVED_NOTE)
        return Toolbox(
            tuple(tools.values()), "\n\n".join(instructions), approvals=approvals, room=self._room, outputs=outputs
        )

    def _is_there(self, name: str) -> bool:
        folder = self._directory / name
        return (folder / "SKILL.md").is_file() and (folder / "tools.py").is_file()

    def _is_skill(self, name: str) -> bool:
        page = self._directory / name / "SKILL.md"
        if not self._is_there(name):
            return False
        try:
            return self._is_well_formed(name, page)
        except SkillError as exc:
            if self._left_out.get(name) != str(exc):
                self._left_out[name] = str(exc)
                log.warning("skill_left_out skill=%s: %s", name, exc)
            return False

    def _is_well_formed(self, name: str, path: Path) -> bool:
        """Check a ``SKILL.md`` once for each change of it.

        Front matter of plain lines alone is known to be good without ruamel.yaml, which an idle worker does not load.

        Raises:
            SkillError: it is malformed.
        """
        try:
            stamp = _stamp(path.stat())
            if self._well_formed.get(name) != stamp:
                known = self._pages.get(name)
                if (known is None or known[0] != stamp) and not _is_plain(path, name):
                    self._page(name)
                self._well_formed[name] = stamp
                self._left_out.pop(name, None)
        except OSError as exc:
            raise SkillError(f"{path} can't be read: {exc}") from exc
        return True

    def _tools(self, name: str, rules: SkillRules, context: ToolContext) -> list[Tool]:
        path = self._directory / name / "tools.py"
        module = _import(path, name)
        memory_of: Mapping[str, int] = getattr(module, "MEMORY_MB", {})
        tools = []
        for attribute, function in vars(module).items():
            # Skip what the module imports, and a second name for the same function.
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            if attribute.startswith("_") or not own or function.__name__ != attribute:
                continue
            try:
                signature = read_signature(function)
            except SkillError as exc:
                raise SkillError(f"{path}: {exc}") from exc.__cause__
            asks = rules.approval or not self._policy.approve.isdisjoint((name, attribute))
            own_context = context_for(name, rules, self._policy, context, approved=asks)
            is_async = inspect.iscoroutinefunction(function)
            memory = memory_of.get(attribute, CALL_MB)
            tools.append(Tool(name, function, signature, is_async, own_context, asks, memory))
        if not tools:
            raise SkillError(f"{path} has no tool: no public function is defined in it")
        return tools

    def _page(self, name: str) -> _Page:
        """Return the skill's ``SKILL.md``, read again only if the file has changed."""
        path = self._directory / name / "SKILL.md"
        try:
            status = path.stat()
            stamp = _stamp(status)
            known = self._pages.get(name)
            if known is not None and known[0] == stamp:
                return known[1]
            if status.st_size > _MAX_SKILL_BYTES:
                raise SkillError(f"{path} has {status.st_size} bytes, {_MAX_SKILL_BYTES} are allowed")
            text = path.read_text("utf-8-sig")
        except (OSError, UnicodeDecodeError) as exc:
            raise SkillError(f"{path} can't be read: {exc}") from exc
        page = _read_page(text, name, path)
        self._pages[name] = (stamp, page)
        return page


def _functions(statements: Sequence[ast.stmt]) -> Iterator[str]:
    """Yield the names of a module's public functions, those within its ``if``, ``try`` and ``with`` included."""
    for node in statements:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            if not node.name.startswith("_"):
                yield node.name
        elif not isinstance(node, ast.ClassDef):
            for block in ("body", "orelse", "finalbody"):
                yield from _functions(getattr(node, block, ()))
            for handler in getattr(node, "handlers", ()):
                yield from _functions(handler.body)


def _listed(**names: Sequence[str]) -> str:
    return "; ".join(f"the {kind} are {', '.join(some) or 'none'}" for kind, some in names.items())


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """Return what changes when a file is written anew."""
    return status.st_mtime_ns, status.st_size, status.st_ino


def _is_plain(path: Path, name: str) -> bool:
    """Whether a ``SKILL.md`` is certainly well-formed: a name and a description in plain words, and nothing else."""
    with path.open("rb") as file:
        head = file.read(_MAX_SKILL_BYTES + 1)
    if len(head) > _MAX_SKILL_BYTES:
        return False
    try:
        match = _PLAIN.match(head.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return False
    return match is not None and match[1] == name not in _NO_TEXT and not re.search(r":(?:\s|$)|\s#", match[2])


def _import(path: Path, name: str) -> ModuleType:
    """Run a skill's ``tools.py`` as a new module that no other code can import.

    The module is a package, so that its top level can import the files beside it (``from .page import Page``).

    Raises:
        SkillError: the module raised.
    """
    # docs/decisions.md, D47
    module_name = f"_pibot_skill_{name.replace('-', '_')}_{next(_serial)}"
    spec = importlib.util.spec_from_file_location(module_name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses, typing and relative imports look a module up by its name while it runs; nothing should afterwards.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:  # any error while importing makes this skill unusable, not the worker
        raise SkillError(f"{path} can't be imported: {type(exc).__name__}: {exc}") from exc
    finally:
        for known in [m for m in sys.modules if m == module_name or m.startswith(f"{module_name}.")]:
            del sys.modules[known]
    return module


def _read_page(text: str, name: str, path: Path) -> _Page:
    """Read a ``SKILL.md``.

    Raises:
        SkillError: it is malformed.
    """
    match = _FRONT_MATTER.match(text)
    if match is None:
        raise SkillError(f"{path} must start with front matter: '---', name: and description:, '---'")
    front = _yaml(match.group(1) or "", path)
    if not isinstance(front, dict):
        raise SkillError(f"{path}: the front matter must be 'name: …' and 'description: …'")
    if front.get("name") != name:
        raise SkillError(f"{path}: name must be the folder's, {name!r}, not {front.get('name')!r}")
    description = front.get("description")
    if not isinstance(description, str) or not description.strip():
        raise SkillError(f"{path}: description must be a text that says what the skill does and when to use it")
    try:
        rules = read_rules(front)
    except ValueError as exc:
        raise SkillError(f"{path}: {exc}") from None
    return _Page(" ".join(description.split()), match.group(2).strip(), rules)


def _yaml(text: str, path: Path) -> Any:
    # Imported here: 2.2 MB and 10 ms that an idle worker does not need.
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as exc:
        raise SkillError(f"{path}: the front matter is no YAML: {exc}") from exc
