"""The skill file_ops searches files block by block, in bounded memory, and can be stopped."""

from __future__ import annotations

import io
import random
import tracemalloc
from pathlib import Path

import pytest
from skills.file_ops import tree
from skills.file_ops.search import BLOCK, Query, _lines, _search
from skills.file_ops.tree import Place

from pibot.contracts import CommandResult
from pibot.tool_registry import Toolbox
from tests.skills.support import FakeCommands, answer, complaint, toolbox

ALPHABETS = ("ab\n", "ab", "aß\n", "aẞé\U0001f600\n ", "a" * 2000 + "b\n")


def found(text: str, query: Query) -> list[tuple[int, str]]:
    return list(_lines(query, io.BytesIO(text.encode()), lambda: False))


@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("ignore_case", [False, True])
def test_blocks_give_the_lines_that_the_whole_text_gives(alphabet: str, ignore_case: bool) -> None:
    source = random.Random(alphabet)
    for _ in range(20):
        text = "".join(source.choices(alphabet, k=source.randrange(3 * BLOCK)))
        start = source.randrange(len(text) + 1)
        query = Query(text[start : start + source.randrange(1, 40)].strip("\n") or "b", ignore_case=ignore_case)
        lines = enumerate(text.split("\n"), 1)
        expected = [(n, line.strip()[:200]) for n, line in lines if query.fold(query.text) in query.fold(line)]
        assert [(n, line.strip()[:200]) for n, line in found(text, query)] == expected


def test_a_text_across_two_blocks_is_found_in_its_line() -> None:
    text = "one\n" + "x" * (BLOCK - 6) + "needle" + "y" * BLOCK + "\nneedle\n"
    assert [number for number, _ in found(text, Query("needle"))] == [2, 3]


def test_a_character_across_two_blocks_is_read_as_one() -> None:
    text = "x" * (BLOCK - 1) + "é\nend"
    assert [number for number, _ in found(text, Query("xé"))] == [1]


def test_a_search_that_is_not_wanted_any_more_ends_after_its_block() -> None:
    file = io.BytesIO(b"a" * (4 << 20))
    assert list(_lines(Query("b"), file, lambda: True)) == []
    assert file.tell() == BLOCK


@pytest.mark.parametrize(
    "content", [b"a" * (4 << 20), b"\n" * (4 << 20), b"x\n" * (2 << 20)], ids=["line", "empty", "x"]
)
def test_a_large_file_is_searched_in_little_memory(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    del content
    tracemalloc.start()
    try:
        assert "nothing found" in _search(Query("b"), Place(tmp_path, (), "."), lambda: False)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture
def tools(tmp_path: Path) -> Toolbox:
    return toolbox("file_ops", tmp_path, FakeCommands(CommandResult(1, "")))


async def test_a_text_that_would_hold_up_the_worker_is_refused(tools: Toolbox) -> None:
    # Python 3.9 took over a minute for this one, in which nothing else ran.
    text = "a" * 100_000 + "b" + "a" * 100_000
    assert "has 200001 characters, 1000 are allowed" in await complaint(tools, "search_files", text=text)
    assert "has 256 characters, 255 are allowed" in await complaint(tools, "search_files", name="*" * 256)


async def test_a_folder_with_very_many_names_is_listed_and_deleted_a_part_at_a_time(
    tools: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tree, "MAX_NAMES", 3)
    (tmp_path / "many").mkdir()
    for number in range(10):
        (tmp_path / f"many/{number}").touch()
    assert len(list(tree.entries(Place(tmp_path, ("many",), "many")))) == 3
    assert await answer(tools, "delete_file", path="many", recursive=True) == "deleted many with 10 entries in it"
