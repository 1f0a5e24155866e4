from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pibot.contracts import ToolContext
from pibot.errors import SkillError, UnknownSkill
from pibot.tool_registry import SkillInfo, SkillLibrary
from tests.support.loops import run_async
from tests.support.processes import ROOT
from tests.tool_registry.support import ECHO, ask, one, skill


def test_only_the_named_skills_are_imported(tmp_path: Path, context: ToolContext) -> None:
    for name in ("a", "b"):
        witness = tmp_path / f"{name}-was-imported"
        skill(
            tmp_path / "skills",
            name,
            f"from pathlib import Path\nPath({str(witness)!r}).touch()\n" + ECHO.replace("echo", f"echo_{name}"),
        )
    library = SkillLibrary(tmp_path / "skills")
    library.names()
    library.check(["a", "b"])
    library.describe()
    assert list(tmp_path.glob("*-was-imported")) == []
    box = library.load(["a"], context)
    assert [s.name for s in box.specs] == ["echo_a"]
    assert [p.name for p in tmp_path.glob("*-was-imported")] == ["a-was-imported"]


def test_a_task_without_skills_has_no_tools_and_no_instructions(tmp_path: Path, context: ToolContext) -> None:
    skill(tmp_path / "skills", "a", "1 / 0\n")
    box = SkillLibrary(tmp_path / "skills").load([], context)
    assert (box.specs, box.instructions) == ((), "")


async def test_a_modules_globals_carry_nothing_from_one_task_to_another(tmp_path: Path, context: ToolContext) -> None:
    skill(
        tmp_path / "skills",
        "memory",
        "_seen: list[str] = []\n"
        "def remember(text: str) -> list[str]:\n    'Remember.'\n    _seen.append(text)\n    return _seen\n",
    )
    library = SkillLibrary(tmp_path / "skills")
    first = await ask(library.load(["memory"], context), "remember", text="secret123")
    second = await ask(library.load(["memory"], context), "remember", text="hello")
    assert (first.content, second.content) == ('["secret123"]', '["hello"]')


def test_importing_a_skill_leaves_nothing_in_sys_modules(tmp_path: Path, context: ToolContext) -> None:
    modules, path = set(sys.modules), list(sys.path)
    tools = "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n" + ECHO
    box = one(tmp_path, context, tools)
    assert {m for m in set(sys.modules) - modules if "skill" in m or "tools" in m} == set()
    assert sys.path == path
    assert [s.name for s in box.specs] == ["echo"]


def test_a_skills_further_files_are_imported_anew_for_each_task_too(tmp_path: Path, context: ToolContext) -> None:
    tools = (
        "from .helper import seen\n"
        "def remember(text: str) -> list[str]:\n    'Remember.'\n    seen.append(text)\n    return seen\n"
    )
    skill(tmp_path / "skills", "two_files", tools)
    (tmp_path / "skills" / "two_files" / "helper.py").write_text("seen = []\n")
    library = SkillLibrary(tmp_path / "skills")
    answers = []
    for text in ("secret123", "hello"):
        box = library.load(["two_files"], context)
        answers.append(run_async(ask(box, "remember", text=text)).content)
    assert answers == ['["secret123"]', '["hello"]']
    assert [m for m in sys.modules if "two_files" in m] == []


def test_only_folders_that_are_skills_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "skills"
    skill(folder, "good", ECHO)
    skill(folder, "Bad Name", ECHO)
    (folder / "no_tools").mkdir()
    (folder / "no_tools" / "SKILL.md").write_text("---\nname: no_tools\n---\n")
    (folder / "no_page").mkdir()
    (folder / "no_page" / "tools.py").write_text("")
    (folder / "file").write_text("")
    assert SkillLibrary(folder).names() == ("good",)
    assert SkillLibrary(tmp_path / "absent").names() == ()


@pytest.mark.parametrize("name", ["bad", "../skills/good", "", "no_page"])
def test_an_unknown_skill_is_refused_with_the_names_of_the_known_ones(
    tmp_path: Path, context: ToolContext, name: str
) -> None:
    skill(tmp_path / "skills", "good", ECHO)
    library = SkillLibrary(tmp_path / "skills")
    with pytest.raises(UnknownSkill, match="the skills here are: good"):
        library.check(["good", name])
    with pytest.raises(UnknownSkill):
        library.load([name], context)


def test_two_skills_with_the_same_tool_are_both_named(tmp_path: Path, context: ToolContext) -> None:
    skill(tmp_path / "skills", "one", ECHO)
    skill(tmp_path / "skills", "two", ECHO)
    with pytest.raises(SkillError, match="'one' and 'two' both have a tool 'echo'"):
        SkillLibrary(tmp_path / "skills").load(["one", "two"], context)


def test_the_instructions_are_the_named_skills_pages(tmp_path: Path, context: ToolContext) -> None:
    skill(tmp_path / "skills", "one", ECHO, body="# One\n\nFirst.\n\n---\n\nAfter a rule.")
    skill(tmp_path / "skills", "two", ECHO.replace("echo", "other"), body="Second.")
    library = SkillLibrary(tmp_path / "skills")
    box = library.load(["two", "one", "two"], context)
    assert box.instructions == "## Skill two\n\nSecond.\n\n## Skill one\n\n# One\n\nFirst.\n\n---\n\nAfter a rule."


def test_a_changed_skill_page_is_read_again(tmp_path: Path) -> None:
    skill(tmp_path / "skills", "one", ECHO, description=">\n  Says things,\n  again.")
    library = SkillLibrary(tmp_path / "skills")
    assert library.describe() == (SkillInfo("one", "Says things, again."),)
    (tmp_path / "skills" / "one" / "SKILL.md").write_text("---\nname: one\ndescription: Other now.\n---\n")
    assert library.describe() == (SkillInfo("one", "Other now."),)


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("no front matter", "front matter"),
        ("---\nname: demo\n", "front matter"),
        ("---\nname: [\n---\n", "no YAML"),
        ("---\n- a\n---\n", "front matter must be"),
        ("---\n---\n", "front matter must be"),
        ("---\nname: other\ndescription: x\n---\n", "'demo', not 'other'"),
        ("---\nname: demo\n---\n", "description"),
        ("---\nname: demo\ndescription: ' '\n---\n", "description"),
        ("---\nname: demo\ndescription: x\n---\n" + "x" * 100_000, "bytes"),
    ],
)
def test_the_error_of_a_malformed_skill_page_names_its_file(
    tmp_path: Path, page: str, problem: str, context: ToolContext
) -> None:
    skill(tmp_path / "skills", "demo", ECHO)
    path = tmp_path / "skills" / "demo" / "SKILL.md"
    path.write_text(page)
    with pytest.raises(SkillError, match=problem) as caught:
        SkillLibrary(tmp_path / "skills").load(["demo"], context)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("tools", "problem"),
    [
        ("def f(x: int) -> str:\n    return ''\n", "no docstring"),
        ("def f(x) -> str:\n    'Doc.'\n    return ''\n", "annotate 'x'"),
        ("def f(x: set) -> str:\n    'Doc.'\n    return ''\n", "use str, int"),
        ("def f(x: Nothing) -> str:\n    'Doc.'\n    return ''\n", "can't be evaluated"),
        ("def f(*x: int) -> str:\n    'Doc.'\n    return ''\n", "by name"),
        ("def f(x: int) -> str:\n    '''Doc.\n\n    Args:\n        y: gone.\n    '''\n    return ''\n", "'y'"),
        ("1 / 0\n", "ZeroDivisionError"),
        ("def f(:\n", "SyntaxError"),
        ("def _f(x: int) -> str:\n    'Doc.'\n    return ''\n", "no tool"),
    ],
)
def test_the_error_of_an_unusable_skill_names_its_file_and_the_problem(
    tmp_path: Path, context: ToolContext, tools: str, problem: str
) -> None:
    with pytest.raises(SkillError, match=problem) as caught:
        one(tmp_path, context, tools)
    assert str(tmp_path / "skills" / "demo" / "tools.py") in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [
        "---\nname: bad\ndescription: Reads mail: and more\n---\n",
        "---\nname: bad\ndescription: Reads mail, and ends so:\n---\n",
        "---\nname: other\ndescription: Reads the mail.\n---\n",
        "no front matter",
    ],
)
def test_a_malformed_skill_is_left_out_with_one_warning_until_it_is_mended(
    tmp_path: Path, page: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("bad", "good"):
        skill(tmp_path, name, ECHO)
    (tmp_path / "bad" / "SKILL.md").write_text(page)
    library = SkillLibrary(tmp_path)
    assert library.names() == library.names() == ("good",)
    assert [info.name for info in library.describe()] == ["good"]
    with pytest.raises(UnknownSkill, match="the skills here are: good"):
        library.check(["bad"])
    assert len(caplog.messages) == 1
    assert f"{tmp_path}/bad/SKILL.md" in caplog.messages[0]

    (tmp_path / "bad" / "SKILL.md").write_text('---\nname: bad\ndescription: "Reads mail: and more"\n---\n')
    assert library.names() == ("bad", "good")


def test_the_built_in_skills_are_known_to_be_well_formed_without_reading_yaml() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom pibot.tool_registry import SkillLibrary\n"
        f"assert len(SkillLibrary(Path({str(ROOT / 'skills')!r})).names()) == 4\n"
        "assert not [name for name in sys.modules if name.startswith('ruamel')]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
