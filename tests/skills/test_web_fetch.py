"""The skill web_fetch, against real servers: its results and their limits."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from skills.web_fetch.body import Unpacker
from skills.web_fetch.reading import MAX_ANSWER
from skills.web_fetch.tools import FetchLimits

from pibot.contracts import CommandResult, ToolCall, ToolContext
from pibot.errors import ToolError
from pibot.tool_registry import SkillLibrary
from tests.skills.web_server import HANG, WebServer, answer, fetch, web_server

SKILLS = Path(__file__).resolve().parents[2] / "skills"


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


# --- results ---


async def test_a_page_gives_address_status_type_title_and_text(web: WebServer) -> None:
    url = web.page("/", "<title>Example Domain</title><h1>Hello</h1><script>no</script><p>World")
    assert await fetch(url) == (
        f"url: {url}\nstatus: 200 OK\ntype: text/html; charset=utf-8\ntitle: Example Domain\n\nHello\nWorld"
    )


async def test_links_come_instead_of_the_text_or_with_it(web: WebServer) -> None:
    url = web.page("/a/", "<title>T</title><p>Text <a href=../b>B</a>")
    links = await fetch(url, include="links")
    assert links.endswith(f"title: T\n\nLinks:\n- B: {web.url}/b")
    assert "Text" not in links
    assert (await fetch(url, include="all")).endswith(f"\n\nText B\n\nLinks:\n- B: {web.url}/b")


async def test_a_long_text_is_cut_and_says_so(web: WebServer) -> None:
    got = await fetch(web.page("/", "<p>" + "word " * 1000), max_chars=100)
    assert "note: the text was cut, it has 4999 characters" in got
    assert len(got.partition("\n\n")[2]) == 100


async def test_text_and_links_together_stay_below_the_limit_of_a_tools_result(web: WebServer) -> None:
    body = "text " * 5000 + "".join(f"<a href=/{n}{'x' * 500}>{n}</a>" for n in range(100))
    got = await fetch(web.page("/", body), include="all", max_chars=18_000)
    assert len(got) < MAX_ANSWER + 200
    assert got.endswith("more were left out)")


@pytest.mark.parametrize(
    "kind", ["application/json", "application/ld+json", "text/plain", "text/csv", "application/xml"]
)
async def test_text_other_than_html_is_returned_unchanged(web: WebServer, kind: str) -> None:
    got = await fetch(web.page("/", '{"a": "<b>é</b>"}', Content_Type=kind))
    assert got.endswith('\n\n{"a": "<b>é</b>"}')
    assert "title:" not in got


@pytest.mark.parametrize(("body", "title"), [(b"<!doctype html><title>T</title>", True), (b"plain", False)])
async def test_the_type_of_an_answer_without_one_is_detected(web: WebServer, body: bytes, title: bool) -> None:
    web.routes["/"] = answer(body, "200 OK", {})
    got = await fetch(web.url)
    assert ("title: T" in got) is title
    assert "type: not stated" in got


async def test_a_file_is_described_and_not_read(web: WebServer) -> None:
    got = await fetch(web.page("/", b"\x89PNG" + bytes(1000), Content_Type="image/png"))
    assert got.endswith("note: this is no text, but a file of 1004 bytes; its content is not shown")
    web.routes["/raw"] = answer(b"\0\1\2", "200 OK", {})
    assert "its content is not shown" in await fetch(web.url + "/raw")


async def test_an_empty_answer_is_reported_as_empty(web: WebServer) -> None:
    web.routes["/"] = b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"
    assert (await fetch(web.url)).endswith("(no text)")


async def test_the_charsets_of_header_and_page_are_used(web: WebServer) -> None:
    assert "naïve" in await fetch(web.page("/a", "naïve".encode("latin-1"), Content_Type="text/html; charset=latin-1"))
    assert "naïve" in await fetch(
        web.page("/b", "<meta charset=latin-1>naïve".encode("latin-1"), Content_Type="text/html")
    )
    assert "naïve" in await fetch(web.page("/c", "naïve".encode(), Content_Type="text/html; charset=bogus"))


async def test_a_request_names_pibot_and_carries_nothing_from_earlier_calls(web: WebServer) -> None:
    url = web.page("/", "x", Set_Cookie="id=1; Path=/")
    await fetch(url)
    await fetch(url)
    for head in web.heads:
        names = [line.partition(":")[0].lower() for line in head.splitlines()[1:] if line]
        assert sorted(names) == ["accept", "accept-encoding", "connection", "host", "user-agent"]
        assert "User-Agent: PiBot/3\r\n" in head


async def test_no_proxy_of_the_environment_is_used(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    assert "hello" in await fetch(web.page("/", "hello"))


# --- packed bodies ---


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(b"hello world")),
        ("x-gzip", gzip.compress(b"hello world")),
        ("GZIP", gzip.compress(b"hello ") + gzip.compress(b"world")),
        ("gzip", gzip.compress(b"hello world") + b"\0\0garbage"),
        ("deflate", zlib.compress(b"hello world")),
        ("deflate", raw_deflate(b"hello world")),
        ("identity", b"hello world"),
    ],
)
async def test_packed_answers_are_unpacked(web: WebServer, encoding: str, body: bytes) -> None:
    got = await fetch(web.page("/", body, Content_Encoding=encoding))
    assert got.endswith("hello world")
    assert "note" not in got


async def test_a_packed_bomb_is_unpacked_up_to_the_limit_only(web: WebServer) -> None:
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(b"A" * 1_000_000) for _ in range(200)) + bomb.flush()
    assert len(packed) < 200_000
    got = await fetch(web.page("/", packed, Content_Encoding="gzip"), limits=FetchLimits(size=50_000))
    assert "it has 50000 characters" in got
    assert "note: the answer is not whole" in got


def test_no_more_is_unpacked_than_fits() -> None:
    unpack = Unpacker("gzip")
    assert len(unpack(gzip.compress(bytes(10_000_000)), 1_000)) == 1_000


async def test_an_endless_packed_body_is_not_read_beyond_the_limit(web: WebServer) -> None:
    # Empty gzip members never give any output.
    got = await fetch(
        web.page("/", gzip.compress(b"") * 10_000, Content_Encoding="gzip"), limits=FetchLimits(size=50_000)
    )
    assert "note: the answer is not whole" in got


@pytest.mark.parametrize(
    ("encoding", "body", "words"),
    [
        ("gzip", b"\x1f\x8b\x08\xff\xff", "broken"),
        ("deflate", b"\xff\xff", "broken"),
        ("br", b"x", "'br', which was not asked for"),
    ],
)
async def test_a_broken_packed_body_is_a_clear_error(web: WebServer, encoding: str, body: bytes, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await fetch(web.page("/", body, Content_Encoding=encoding))


async def test_a_packed_body_that_ends_too_early_is_returned_as_far_as_it_goes(web: WebServer) -> None:
    got = await fetch(web.page("/", gzip.compress(b"hello world" * 500)[:-12], Content_Encoding="gzip"))
    assert "note: the answer is not whole" in got
    assert "hello world" in got


# --- limits ---


async def test_a_large_body_is_cut_at_the_limit(web: WebServer) -> None:
    got = await fetch(web.page("/", "a" * 30_000), limits=FetchLimits(size=10_000))
    assert "note: the answer is not whole; it was read up to 10000 bytes" in got
    assert "it has 10000 characters" in got


async def test_a_body_of_exactly_the_limit_is_whole(web: WebServer) -> None:
    assert "note" not in await fetch(web.page("/", "a" * 100), limits=FetchLimits(size=100))


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"])
async def test_a_server_that_never_finishes_is_abandoned_when_the_time_is_up(web: WebServer, begun: bytes) -> None:
    web.routes["/"] = begun + HANG
    with pytest.raises(ToolError, match=r"did not answer in full within 0.2 seconds"):
        await fetch(web.url, limits=FetchLimits(seconds=0.2))


async def test_a_cancelled_fetch_ends_at_once_and_closes_its_connection(web: WebServer) -> None:
    web.routes["/"] = HANG
    task = asyncio.create_task(fetch(web.url))
    await web.hanging.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("max_chars", [0, -1, 18_001])
async def test_a_number_of_characters_out_of_range_is_refused(max_chars: int) -> None:
    with pytest.raises(ToolError, match="max_chars must be from 1 to 18000"):
        await fetch("http://example.com/", max_chars=max_chars)


# --- as a skill ---


class NoCommands:
    async def run(self, argv: object, **options: object) -> CommandResult:
        raise AssertionError("web_fetch runs no command")


async def call(tmp_path: Path, options: Mapping[str, Any], **arguments: Any) -> tuple[str, bool]:
    box = SkillLibrary(SKILLS).load(["web_fetch"], ToolContext("t1", tmp_path, NoCommands(), options))
    assert [spec.name for spec in box.specs] == ["web_fetch"]
    result = await box.execute(ToolCall("c1", "web_fetch", arguments))
    return result.content, result.is_error


async def test_a_task_with_the_skill_can_fetch_what_the_owner_allows(web: WebServer, tmp_path: Path) -> None:
    url = web.page("/", "<title>T</title>")
    content, is_error = await call(tmp_path, {"web_allow": (f"127.0.0.1:{web.port}",)}, url=url)
    assert ("title: T" in content, is_error) == (True, False)


async def test_without_the_owners_permission_this_computer_is_refused(web: WebServer, tmp_path: Path) -> None:
    content, is_error = await call(tmp_path, {}, url=web.page("/", "secret"))
    assert ("not on the public web" in content, is_error) == (True, True)


async def test_the_tools_spec_lists_the_allowed_arguments(tmp_path: Path) -> None:
    content, is_error = await call(tmp_path, {}, url="http://example.com/", include="everything")
    assert ("must be one of" in content, is_error) == (True, True)


def test_importing_the_skill_does_not_import_aiohttp() -> None:
    probe = "import sys; sys.path.insert(0, sys.argv[1]); import skills.web_fetch.tools; print(*sys.modules)"
    command = [sys.executable, "-c", probe, str(SKILLS.parent)]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "yarl"} & set(loaded)


def test_the_skill_describes_itself() -> None:
    described = {info.name: info.description for info in SkillLibrary(SKILLS).describe()}
    assert "web page" in described["web_fetch"]
