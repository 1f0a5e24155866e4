"""The skills of a machine: folders with a ``SKILL.md`` and a ``tools.py``.

``SKILL.md`` follows the Agent Skills format (https://agentskills.io/specification): front matter with ``name`` and
``description``, then the instructions for the model.
"""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from pibot.contracts import ToolContext
from pibot.errors import SkillError, UnknownSkill
from pibot.tool_registry.policy import Policy, SkillRules, context_for, read_rules
from pibot.tool_registry.signature import read_signature
from pibot.tool_registry.toolbox import ApprovalGate, Tool, Toolbox

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?\r?\n)?---[ \t]*(?:\r?\n|\Z)(.*)\Z", re.DOTALL)
_FUNCTION = re.compile(r"^(?:async )?def (\w+)\(", re.MULTILINE)
_MAX_SKILL_BYTES = 100_000
_serial = itertools.count(1)

NO_MORE = Policy()
"""An owner who allows nothing beyond what every skill may do."""


@dataclass(frozen=True)
class SkillInfo:
    """What a planner or a person is told of a skill."""

    name: str
    description: str


@dataclass(frozen=True)
class _Page:
    """A ``SKILL.md``, read."""

    description: str
    instructions: str
    rules: SkillRules


class SkillLibrary:
    """The skills in one folder. Looking at it imports nothing; :meth:`load` imports what is named, and no more.

    Args:
        directory: its sub-folders are the skills. It need not exist: there are no skills then.
        policy: what the owner says of them.
    """

    def __init__(self, directory: Path, policy: Policy = NO_MORE) -> None:
        self._directory = directory
        self._policy = policy
        self._pages: dict[str, tuple[tuple[int, int, int], _Page]] = {}

    def names(self) -> tuple[str, ...]:
        """The skills there are, sorted, by the look of their folders alone."""
        try:
            folders = sorted(entry.name for entry in self._directory.iterdir() if _NAME.match(entry.name))
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as exc:
            raise SkillError(f"the skills' folder can't be read: {exc}") from exc
        return tuple(name for name in folders if self._is_skill(name))

    def check(self, names: Iterable[str]) -> None:
        """Make sure that every skill of ``names`` is here.

        Raises:
            UnknownSkill: one is not; it says which ones are.
        """
        for name in names:
            if not (_NAME.match(name) and self._is_skill(name)):
                raise UnknownSkill(name, self.names())

    def unknown(self, names: Iterable[str]) -> tuple[str, ...]:
        """Which of ``names`` are neither a skill here nor a tool of one; nothing is imported to know that."""
        known = set(self.names())
        for skill in tuple(known):
            try:
                known.update(_FUNCTION.findall((self._directory / skill / "tools.py").read_text("utf-8", "replace")))
            except OSError as exc:
                raise SkillError(f"a skill can't be read: {exc}") from exc
        return tuple(name for name in names if name not in known)

    def describe(self) -> tuple[SkillInfo, ...]:
        """Name and description of every skill, from its front matter.

        Raises:
            SkillError: a ``SKILL.md`` does not have the form.
        """
        return tuple(SkillInfo(name, self._page(name).description) for name in self.names())

    def load(self, names: Sequence[str], context: ToolContext, approvals: ApprovalGate | None = None) -> Toolbox:
        """Import the skills of one task and make its toolbox.

        Each call imports anew, so that nothing of one task reaches another through a module's globals. It costs
        a few milliseconds a skill, since Python keeps the compiled form.

        Args:
            names: skills; a name given twice counts once.
            context: handed to the tools; they get its options read-only.
            approvals: the way to the owner, for calls that need it.

        Raises:
            UnknownSkill: a skill is not here.
            SkillError: a skill is not usable; the message names the file and what is wrong in it.
        """
        names = tuple(dict.fromkeys(names))
        self.check(names)
        tools: dict[str, Tool] = {}
        instructions = []
        context = replace(context, options=MappingProxyType(dict(context.options)))
        for name in names:
            page = self._page(name)
            own_context = context_for(name, page.rules, self._policy, context)
            if page.instructions:
                instructions.append(f"## Skill {name}\n\n{page.instructions}")
            for tool in self._tools(name, page.rules, own_context):
                if tool.name in tools:
                    raise SkillError(
                        f"the skills {tools[tool.name].skill!r} and {name!r} both have a tool {tool.name!r}; "
                        "rename one, or don't use them in one task"
                    )
                tools[tool.name] = tool
        return Toolbox(tuple(tools.values()), "\n\n".join(instructions), approvals=approvals)

    def _is_skill(self, name: str) -> bool:
        folder = self._directory / name
        return (folder / "SKILL.md").is_file() and (folder / "tools.py").is_file()

    def _tools(self, name: str, rules: SkillRules, context: ToolContext) -> list[Tool]:
        path = self._directory / name / "tools.py"
        module = _import(path, name)
        tools = []
        for attribute, function in vars(module).items():
            # Neither what was imported into it, nor a second name for the same function.
            own = inspect.isfunction(function) and function.__module__ == module.__name__
            if attribute.startswith("_") or not own or function.__name__ != attribute:
                continue
            try:
                signature = read_signature(function)
            except SkillError as exc:
                raise SkillError(f"{path}: {exc}") from exc.__cause__
            asks = rules.approval or not self._policy.approve.isdisjoint((name, attribute))
            tools.append(Tool(name, function, signature, inspect.iscoroutinefunction(function), context, asks))
        if not tools:
            raise SkillError(f"{path} has no tool: no public function is defined in it")
        return tools

    def _page(self, name: str) -> _Page:
        """The skill's ``SKILL.md``, read again only where the file has changed."""
        path = self._directory / name / "SKILL.md"
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
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


def _import(path: Path, name: str) -> ModuleType:
    """Run a skill's ``tools.py`` as a new module that nobody else sees.

    It is a package too, so that at its top it may import the files beside it (``from .page import Page``).

    Raises:
        SkillError: it fails.
    """
    module_name = f"_pibot_skill_{name.replace('-', '_')}_{next(_serial)}"
    spec = importlib.util.spec_from_file_location(module_name, path, submodule_search_locations=[str(path.parent)])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses, typing and relative imports look a module up by its name while it is run; afterwards nobody should.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as exc:  # whatever a skill raises while it is imported makes it unusable, and nothing else
        raise SkillError(f"{path} can't be imported: {type(exc).__name__}: {exc}") from exc
    finally:
        for known in [m for m in sys.modules if m == module_name or m.startswith(f"{module_name}.")]:
            del sys.modules[known]
    return module


def _read_page(text: str, name: str, path: Path) -> _Page:
    """Read a ``SKILL.md``.

    Raises:
        SkillError: it does not have the form.
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
