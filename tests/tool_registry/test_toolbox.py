from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Callable

import pytest

from pibot.contracts import ToolCall, ToolContext, ToolResult
from pibot.tool_registry import SkillLibrary, Toolbox, toolbox
from pibot.tool_registry.signature import read_signature
from tests.tool_registry.support import ECHO, ask, one


async def test_all_mistakes_of_a_call_come_back_together_and_nothing_runs(tmp_path: Path, context: ToolContext) -> None:
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


async def test_arguments_that_are_not_json_come_back_with_the_reason(tmp_path: Path, context: ToolContext) -> None:
    box = one(tmp_path, context, ECHO)
    told = await box.execute(ToolCall("c1", "echo", None, "{", problem="the arguments end in the middle"))
    untold = await box.execute(ToolCall("c1", "echo", None, "[1]"))
    assert told.is_error
    assert "the arguments end in the middle" in told.content
    assert "'[1]'" in untold.content


async def test_an_unknown_tool_is_answered_with_the_closest_name(tmp_path: Path, context: ToolContext) -> None:
    box = one(tmp_path, context, ECHO)
    assert (await ask(box, "ecko")).content == "there is no tool 'ecko'; did you mean 'echo'? The tools are: echo"
    assert (await ask(box, "zzz")).content == "there is no tool 'zzz'. The tools are: echo"
    nothing = await ask(SkillLibrary(tmp_path / "skills").load([], context), "echo")
    assert nothing.is_error
    assert "this task has no tools" in nothing.content


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


async def test_a_tools_return_value_becomes_text_or_json(tmp_path: Path, context: ToolContext) -> None:
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


async def test_a_tool_errors_message_is_the_result(
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
async def test_any_other_exception_is_named_in_the_result_and_logged_with_its_traceback(
    tmp_path: Path, context: ToolContext, caplog: pytest.LogCaptureFixture, name: str, said: str
) -> None:
    result = await ask(one(tmp_path, context, FAILING), name)
    assert result.is_error
    assert result.content.startswith(f"{name} failed because of a defect in it: {said}")
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None


def box_of(context: ToolContext, function: Callable[..., str]) -> Toolbox:
    function.__doc__ = "Work."
    return Toolbox([toolbox.Tool("demo", function, read_signature(function), False, context)])


@pytest.mark.parametrize("cancels", [1, 3])
async def test_a_cancelled_tool_in_a_thread_has_ended_before_the_cancellation_is_raised(
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


async def test_a_tool_stuck_in_its_thread_is_abandoned_and_logged(
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
