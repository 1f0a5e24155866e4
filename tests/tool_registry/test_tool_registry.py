from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Literal, Optional, Union

import pytest

from pibot.contracts import CommandResult, ToolCall, ToolContext, ToolResult, ToolSpec
from pibot.errors import SkillError, UnknownSkill
from pibot.tool_registry import SkillInfo, SkillLibrary, Toolbox, toolbox
from pibot.tool_registry.arguments import Misfit, fit_arguments
from pibot.tool_registry.signature import read_signature
from tests.support.loops import run_async


class NoCommands:
    async def run(self, argv: object, **options: object) -> CommandResult:
        raise AssertionError("no test here runs a command")


@pytest.fixture
def context(tmp_path: Path) -> ToolContext:
    return ToolContext("t1", tmp_path, NoCommands(), {"web_allow": ("example.com",)})


def skill(folder: Path, name: str, tools: str, description: str = "Does things.", body: str = "Use it.") -> None:
    (folder / name).mkdir(parents=True)
    (folder / name / "SKILL.md").write_text(f"---\nname: {name}\ndescription: {description}\n---\n\n{body}\n")
    header = "from __future__ import annotations\n"
    (folder / name / "tools.py").write_text(header + tools)


def one(tmp_path: Path, context: ToolContext, tools: str) -> Toolbox:
    skill(tmp_path / "skills", "demo", tools)
    return SkillLibrary(tmp_path / "skills").load(["demo"], context)


async def ask(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return await box.execute(ToolCall("c1", name, arguments))


ECHO = '''
def echo(text: str, times: int = 1) -> str:
    """Say it again.

    Args:
        text: what to say.
        times: how often.
    """
    return text * times
'''


# --- what a model is told ---


def test_a_tool_is_told_by_its_signature_and_docstring(tmp_path: Path, context: ToolContext) -> None:
    (spec,) = one(tmp_path, context, ECHO).specs
    assert spec == ToolSpec(
        "echo",
        "Say it again.",
        {
            "type": "object",
            "properties": {
                "text": {"type": "string", "description": "what to say."},
                "times": {"type": "integer", "description": "how often.", "default": 1},
            },
            "additionalProperties": False,
            "required": ["text"],
        },
    )


def test_every_type_that_a_tool_may_take_has_its_schema() -> None:
    def tool(
        a: str,
        b: float,
        c: bool,
        d: list[int],
        e: dict[str, float],
        f: Optional[str],
        g: Literal["x", "y"],
        h: Union[int, str],
        i: list,  # type: ignore[type-arg]  # the bare form is allowed
        j: Optional[list[str]] = None,
        k: Any = None,
    ) -> None:
        """Takes all."""

    parameters = read_signature(tool).parameters
    assert parameters["properties"] == {
        "a": {"type": "string"},
        "b": {"type": "number"},
        "c": {"type": "boolean"},
        "d": {"type": "array", "items": {"type": "integer"}},
        "e": {"type": "object", "additionalProperties": {"type": "number"}},
        "f": {"type": "string"},
        "g": {"type": "string", "enum": ["x", "y"]},
        "h": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "i": {"type": "array"},
        "j": {"type": "array", "items": {"type": "string"}},
        "k": {},
    }
    assert parameters["required"] == ["a", "b", "c", "d", "e", "g", "h", "i"]


def test_a_description_of_an_argument_may_run_over_lines_and_paragraphs_stay() -> None:
    def tool(path: str, limit: int = 5) -> str:
        """Read a file.

        Large ones come in windows.

        Args:
            path: where it is,
                such as: notes.txt
            limit: lines.

        Returns:
            str: the text.

        Raises:
            ToolError: no such file.
        """
        return path

    signature = read_signature(tool)
    assert signature.description == "Read a file.\n\nLarge ones come in windows."
    assert {n: s["description"] for n, s in signature.parameters["properties"].items()} == {
        "path": "where it is, such as: notes.txt",
        "limit": "lines.",
    }


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
def test_a_skill_that_cannot_be_used_names_its_file_and_what_is_wrong(
    tmp_path: Path, context: ToolContext, tools: str, problem: str
) -> None:
    with pytest.raises(SkillError, match=problem) as caught:
        one(tmp_path, context, tools)
    assert str(tmp_path / "skills" / "demo" / "tools.py") in str(caught.value)


# --- the library ---


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


async def test_nothing_of_one_task_reaches_another_through_a_modules_globals(
    tmp_path: Path, context: ToolContext
) -> None:
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


def test_an_import_leaves_nothing_in_the_interpreter(tmp_path: Path, context: ToolContext) -> None:
    modules, path = set(sys.modules), list(sys.path)
    tools = "from dataclasses import dataclass\n@dataclass\nclass Point:\n    x: int\n" + ECHO
    box = one(tmp_path, context, tools)
    assert {m for m in set(sys.modules) - modules if "skill" in m or "tools" in m} == set()
    assert sys.path == path
    assert [s.name for s in box.specs] == ["echo"]


def test_a_skill_may_have_more_files_and_they_are_as_fresh_and_private_as_its_tools(
    tmp_path: Path, context: ToolContext
) -> None:
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


def test_folders_that_are_no_skills_are_not_named(tmp_path: Path) -> None:
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
def test_an_unknown_skill_is_refused_with_the_ones_there_are(tmp_path: Path, context: ToolContext, name: str) -> None:
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


def test_a_page_is_read_anew_when_it_has_changed(tmp_path: Path) -> None:
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
def test_a_page_without_the_form_names_its_file(tmp_path: Path, page: str, problem: str) -> None:
    skill(tmp_path / "skills", "demo", ECHO)
    path = tmp_path / "skills" / "demo" / "SKILL.md"
    path.write_text(page)
    with pytest.raises(SkillError, match=problem) as caught:
        SkillLibrary(tmp_path / "skills").describe()
    assert str(path) in str(caught.value)


# --- arguments ---


def shapes(
    text: str = "",
    count: int = 0,
    ratio: float = 0.0,
    flag: bool = False,
    words: list[str] = [],  # noqa: B006  # never called
    table: Optional[dict[str, int]] = None,
    mode: Literal["fast", "slow"] = "fast",
    either: Union[int, str] = 0,
) -> None:
    """Takes shapes."""


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({"count": "5"}, {"count": 5}),
        ({"count": 5.0}, {"count": 5}),
        ({"count": " -3 "}, {"count": -3}),
        ({"ratio": "2.5"}, {"ratio": 2.5}),
        ({"ratio": 2}, {"ratio": 2}),
        ({"flag": "True"}, {"flag": True}),
        ({"flag": False}, {"flag": False}),
        ({"text": 5}, {"text": "5"}),
        ({"words": ["a"]}, {"words": ["a"]}),
        ({"words": '["a", "b"]'}, {"words": ["a", "b"]}),
        ({"words": "a"}, {"words": ["a"]}),
        ({"table": '{"a": "1"}'}, {"table": {"a": 1}}),
        ({"table": None}, {}),
        ({"count": None}, {}),
        ({"mode": "SLOW"}, {"mode": "slow"}),
        ({"either": "007"}, {"either": "007"}),
        ({"either": 7}, {"either": 7}),
    ],
)
def test_an_argument_with_one_sensible_reading_is_taken(given: Mapping[str, Any], fitted: Mapping[str, Any]) -> None:
    result = fit_arguments(read_signature(shapes), given)
    assert result == fitted
    assert [type(v) for v in result.values()] == [type(v) for v in fitted.values()]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": "five"}, """argument 'count' must be a whole number, not "five\""""),
        ({"count": 5.5}, "argument 'count' must be a whole number, not 5.5"),
        ({"count": True}, "argument 'count' must be a whole number, not true"),
        ({"ratio": "nan"}, "must be a number"),
        ({"flag": "yes"}, "must be true or false"),
        ({"flag": 1}, "must be true or false"),
        ({"text": ["a"]}, "must be a text"),
        ({"words": ["a", {}]}, "argument 'words' has item 2, which must be a text, not {}"),
        ({"table": {"a": "x"}}, """argument 'table' has "a", which must be a whole number"""),
        ({"table": "[1]"}, "must be an object whose values are each a whole number"),
        ({"mode": "medium"}, 'argument \'mode\' must be one of "fast", "slow", not "medium"'),
        ({"either": []}, "must be a whole number or a text"),
        ({"colour": 1}, 'there is no argument "colour" (the arguments are: text, count'),
        ({"text": {"x": "y" * 500}}, "y…"),
    ],
)
def test_an_argument_that_does_not_fit_is_named_with_what_is_expected(given: Mapping[str, Any], said: str) -> None:
    with pytest.raises(Misfit) as caught:
        fit_arguments(read_signature(shapes), given)
    assert said in str(caught.value)


async def test_all_mistakes_of_a_call_come_back_at_once_and_nothing_was_run(
    tmp_path: Path, context: ToolContext
) -> None:
    box = one(tmp_path, context, ECHO)
    result = await ask(box, "echo", times="x", loud=True)
    assert result.is_error
    for part in ("echo was not run", "'times' must be", '"loud"', "'text' is missing: a text", "text (a text)"):
        assert part in result.content


async def test_an_optional_argument_without_default_is_none_when_left_out(tmp_path: Path, context: ToolContext) -> None:
    box = one(
        tmp_path,
        context,
        "from typing import Optional\ndef show(x: Optional[int]) -> str:\n    'Show.'\n    return repr(x)\n",
    )
    assert [(await ask(box, "show", **a)).content for a in ({}, {"x": None}, {"x": 1})] == ["None", "None", "1"]


async def test_arguments_that_were_no_json_come_back_with_the_reason(tmp_path: Path, context: ToolContext) -> None:
    box = one(tmp_path, context, ECHO)
    told = await box.execute(ToolCall("c1", "echo", None, "{", problem="the arguments end in the middle"))
    untold = await box.execute(ToolCall("c1", "echo", None, "[1]"))
    assert told.is_error
    assert "the arguments end in the middle" in told.content
    assert "'[1]'" in untold.content


async def test_a_tool_that_is_not_there_is_answered_with_the_nearest_one(tmp_path: Path, context: ToolContext) -> None:
    box = one(tmp_path, context, ECHO)
    assert (await ask(box, "ecko")).content == "there is no tool 'ecko'; did you mean 'echo'? The tools are: echo"
    assert (await ask(box, "zzz")).content == "there is no tool 'zzz'. The tools are: echo"
    nothing = await ask(SkillLibrary(tmp_path / "skills").load([], context), "echo")
    assert nothing.is_error
    assert "this task has no tools" in nothing.content


# --- running ---


async def test_tools_may_be_functions_or_coroutines_and_get_the_context(tmp_path: Path, context: ToolContext) -> None:
    box = one(
        tmp_path,
        context,
        "import threading\nfrom pibot.contracts import ToolContext\n"
        "def plain(context: ToolContext) -> str:\n    'Plain.'\n"
        "    return f'{context.task_id} {threading.current_thread() is threading.main_thread()}'\n"
        "async def coroutine(n: int, context: ToolContext) -> str:\n    'Async.'\n"
        "    return f'{context.task_id} {n}'\n",
    )
    assert [list(s.parameters["properties"]) for s in box.specs] == [[], ["n"]]
    assert (await ask(box, "plain")).content == "t1 False"
    assert (await ask(box, "coroutine", n="2")).content == "t1 2"


async def test_a_tool_cannot_change_the_owners_options(tmp_path: Path, context: ToolContext) -> None:
    box = one(
        tmp_path,
        context,
        "from pibot.contracts import ToolContext\n"
        "def loosen(context: ToolContext) -> str:\n    'Loosen.'\n"
        "    context.options['web_allow'] = ('*',)\n    return 'done'\n",
    )
    assert (await ask(box, "loosen")).is_error
    assert context.options == {"web_allow": ("example.com",)}


async def test_what_a_tool_returns_is_text_or_json(tmp_path: Path, context: ToolContext) -> None:
    box = one(
        tmp_path,
        context,
        "from pathlib import Path\n"
        "def table() -> dict:\n    'T.'\n    return {'naïve': [1, None], 'path': Path('/x')}\n"
        "def nothing() -> None:\n    'N.'\n"
        "def surrogate() -> str:\n    'S.'\n    return 'a\\udc80b'\n",
    )
    assert (await ask(box, "table")).content == '{"naïve": [1, null], "path": "/x"}'
    assert (await ask(box, "nothing")).content == "done"
    assert (await ask(box, "surrogate")).content == "a\\udc80b"


async def test_a_long_output_is_cut_in_the_middle_and_says_so(tmp_path: Path, context: ToolContext) -> None:
    box = one(tmp_path, context, "def long() -> str:\n    'L.'\n    return 'a' * 30000 + 'z'\n")
    content = (await ask(box, "long")).content
    assert "10001 of 30001 characters were cut here" in content
    assert content.startswith("aaa")
    assert content.endswith("aaz")
    assert len(content) < 20_200


FAILING = """
import sys
from pibot.errors import ToolError
def refuses() -> str:
    'R.'
    raise ToolError('no such file: x; list_files shows what is there')
def breaks() -> str:
    'B.'
    return {}['key']
async def breaks_too() -> str:
    'B.'
    raise ValueError('odd')
def leaves() -> str:
    'L.'
    sys.exit(3)
async def leaves_too() -> str:
    'L.'
    sys.exit(3)
def stops() -> str:
    'S.'
    raise StopIteration
"""


async def test_a_tool_error_is_a_result_in_its_own_words(
    tmp_path: Path, context: ToolContext, caplog: pytest.LogCaptureFixture
) -> None:
    result = await ask(one(tmp_path, context, FAILING), "refuses")
    assert result == ToolResult("c1", "no such file: x; list_files shows what is there", is_error=True)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("breaks", "KeyError: 'key'"),
        ("breaks_too", "ValueError: odd"),
        ("leaves", "SystemExit: 3"),
        ("leaves_too", "SystemExit: 3"),
        ("stops", "StopIteration"),
    ],
)
async def test_any_other_exception_is_a_result_that_names_it_and_a_traceback_in_the_log(
    tmp_path: Path, context: ToolContext, caplog: pytest.LogCaptureFixture, name: str, said: str
) -> None:
    result = await ask(one(tmp_path, context, FAILING), name)
    assert result.is_error
    assert result.content.startswith(f"{name} failed by a defect of its own: {said}")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def box_of(context: ToolContext, function: Callable[..., str]) -> Toolbox:
    function.__doc__ = "Work."
    return Toolbox([toolbox.Tool("demo", function, read_signature(function), False, context)])


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancelled_tool_in_a_thread_has_ended_when_the_cancellation_arrives(
    context: ToolContext, cancels: int
) -> None:
    entered, release = threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> str:
        entered.set()
        release.wait(30)
        done.append("work")
        return "done"

    call = asyncio.ensure_future(box_of(context, work).execute(ToolCall("c1", "work", {})))
    await asyncio.get_running_loop().run_in_executor(None, entered.wait, 30)
    for _ in range(cancels):
        call.cancel()
        await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(release.set)
    with pytest.raises(asyncio.CancelledError):
        await call
    assert done == ["work"]


async def test_a_tool_stuck_in_its_thread_is_given_up_and_logged(
    context: ToolContext, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toolbox, "THREAD_GRACE", 0.0)
    release = threading.Event()
    entered = threading.Event()

    def work() -> str:
        entered.set()
        release.wait(30)
        return "done"

    call = asyncio.ensure_future(box_of(context, work).execute(ToolCall("c1", "work", {})))
    await asyncio.get_running_loop().run_in_executor(None, entered.wait, 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert "tool_stuck tool=work" in caplog.text
    release.set()


async def test_cancelling_reaches_a_coroutine(tmp_path: Path, context: ToolContext) -> None:
    box = one(
        tmp_path,
        context,
        "import asyncio\nfrom pibot.contracts import ToolContext\n"
        "async def wait(context: ToolContext) -> str:\n    'W.'\n"
        "    try:\n        await asyncio.Event().wait()\n"
        "    finally:\n        (context.workspace / 'cleaned').touch()\n    return ''\n",
    )
    call = asyncio.ensure_future(ask(box, "wait"))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (tmp_path / "cleaned").exists()


def test_a_spec_is_json(tmp_path: Path, context: ToolContext) -> None:
    (spec,) = one(tmp_path, context, ECHO).specs
    assert json.loads(json.dumps(spec.to_json()))["function"]["name"] == "echo"
