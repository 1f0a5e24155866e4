"""The skill web_fetch, against servers that answer oddly: what can be read of it is read, and the rest is named."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator

import pytest
from skills.web_fetch.tools import MAX_HEAD, FetchLimits

from pibot.errors import ToolError
from tests.skills.web_server import HANG, RESET, Names, WebServer, answer, fetch, web_server


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


def target(head: str) -> str:
    return head.split(" ")[1]


# --- addresses ---

AS_WRITTEN = [
    "/a%2Fb?x=%3A%27",
    "/%7Euser/a%20b/c+d;v=1,2?q=a%2Bb+c&s=~%2D_",
    "/a//b/./%2e%2E/c:d@e?u=http://h/p?x%26y=1&z=a|b^c`d{e}",
    "/p?",
    "/p?a=%zz&b=100%",
    "/p?sig=aGk%3D/+==",
    "/it's(1)!*$&a[0]=1",
]


@pytest.mark.parametrize("path", AS_WRITTEN)
async def test_an_address_is_sent_as_it_is_written_and_from_a_redirect_too(web: WebServer, path: str) -> None:
    expected = path.replace("/./", "/")
    web.page(expected, "found")
    assert (await fetch(web.url + path)).endswith("found")
    web.page("/first", "", "302 Found", Location=path)
    assert f"url: {web.url}{expected}\n" in await fetch(f"{web.url}/first")
    assert [target(head) for head in web.heads] == [expected, "/first", expected]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/a b?c d", "/a%20b?c%20d"),
        ("/naïve?q=日本", "/na%C3%AFve?q=%E6%97%A5%E6%9C%AC"),
        ('/"<>`{}\\?"<>', "/%22%3C%3E%60%7B%7D%5C?%22%3C%3E"),
        ("/a/../b/./c/..", "/b/"),
        ("/a#part?x", "/a"),
        ("?x=1", "/?x=1"),
        ("/a\n/b\t ", "/a/b"),
    ],
)
async def test_what_no_request_can_hold_is_escaped(web: WebServer, path: str, sent: str) -> None:
    web.page(sent, "found")
    assert (await fetch(web.url + path)).endswith("found")


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        (b"x%2Fy", "/a%2Fb/x%2Fy"),
        (b"../x?y=%27", "/x?y=%27"),
        (b"?y", "/a%2Fb/c?y"),
        ("/naïve".encode(), "/na%C3%AFve"),
        ("/naïve".encode("latin-1"), "/na%EFve"),
        (b"/a b", "/a%20b"),
    ],
)
async def test_a_redirect_is_relative_to_the_address_as_it_was_sent(web: WebServer, location: bytes, sent: str) -> None:
    web.routes["/a%2Fb/c?x=%27"] = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    web.page(sent, "found")
    assert (await fetch(f"{web.url}/a%2Fb/c?x=%27")).endswith("found")


async def test_a_host_in_any_script_is_asked_by_its_ascii_name(web: WebServer) -> None:
    names = Names(**{"xn--bcher-kva_example": ["127.0.0.1"]})
    web.page("/%C3%A4%2F", "found")
    assert "found" in await fetch(f"http://bücher.example:{web.port}/ä%2F", resolver=names)
    assert f"Host: xn--bcher-kva.example:{web.port}\r\n" in web.heads[0]


# --- heads ---


@pytest.mark.parametrize(
    "head",
    [
        "Content-Security-Policy: " + "a" * 9_000,
        "Set-Cookie: a=" + "b" * 60_000,
        "\r\n".join(f"Set-Cookie: c{n}={'x' * 500}" for n in range(400)),
    ],
)
async def test_a_long_head_is_read(web: WebServer, head: str) -> None:
    web.routes["/"] = (
        f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n{head}\r\nContent-Length: 5\r\n\r\nfound".encode()
    )
    assert (await fetch(web.url)).endswith("found")


async def test_an_endless_head_is_given_up(web: WebServer) -> None:
    web.routes["/"] = b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"a" * 60_000 + b"\r\n") * (2 + MAX_HEAD // 60_000) + HANG
    with pytest.raises(ToolError, match="sends more than was asked for"):
        await fetch(web.url, limits=FetchLimits(size=10_000))


# --- bodies that are not whole ---

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = PLAIN + b"Transfer-Encoding: chunked\r\n\r\n"
PACKED = gzip.compress(b"".join(b"begun %d\n" % n for n in range(500)))
BROKEN = {
    "shorter than its length": (PLAIN + b"Content-Length: 100\r\n\r\nbegun", "broke after 5 of 100 bytes"),
    "reset": (PLAIN + b"Content-Length: 100\r\n\r\nbegun" + RESET, "broke after 5 of 100 bytes"),
    "chunks without an end": (CHUNKED + b"5\r\nbegun\r\n", "broke after 5 bytes"),
    "half a chunk": (CHUNKED + b"ff\r\nbegun", "broke after 5 bytes"),
    "slow": (PLAIN + b"Content-Length: 100\r\n\r\nbegun" + HANG, "the 0.5 seconds were up after 5 of 100 bytes"),
    "slow chunks": (CHUNKED + b"5\r\nbegun\r\n" + HANG, "the 0.5 seconds were up after 5 bytes"),
    "packed, and cut": (
        PLAIN + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + PACKED[:900],
        "broke after 900 of 9999 bytes",
    ),
    "packed, and damaged": (
        PLAIN + b"Content-Encoding: gzip\r\nConnection: close\r\n\r\n" + PACKED[:-8] + bytes(8),
        "its packed data is broken after",
    ),
}


@pytest.mark.parametrize(("sent", "why"), BROKEN.values(), ids=list(BROKEN))
async def test_what_came_of_a_body_is_shown_with_a_note(web: WebServer, sent: bytes, why: str) -> None:
    web.routes["/"] = sent
    got = await fetch(web.url, limits=FetchLimits(seconds=0.5))
    assert "note: the answer is not whole; " in got
    assert why in got
    assert "\n\nbegun" in got


# --- packings ---


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


TEXT = b"Kettle, the first line of a text that is long enough to be told from packed data\nhello world"


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        *((name, TEXT) for name in ("utf-8", "none", "binary", "8bit", "aws-chunked", "text/html", "gzip", "deflate")),
        ("br", TEXT),
        ("aws-chunked, gzip", gzip.compress(TEXT)),
        ("gzip, utf-8", gzip.compress(TEXT)),
        ("gzip, gzip", gzip.compress(gzip.compress(TEXT))),
        ("deflate, gzip", gzip.compress(raw_deflate(TEXT))),
        ("gzip", gzip.compress(gzip.compress(TEXT))),
        ("gzip", zlib.compress(TEXT)),
        ("deflate", gzip.compress(TEXT)),
        ("identity", gzip.compress(TEXT)),
        ("", gzip.compress(TEXT)),
    ],
)
async def test_a_body_is_read_whatever_its_encoding_is_called(web: WebServer, encoding: str, body: bytes) -> None:
    got = await fetch(web.page("/", body, Content_Encoding=encoding, Content_Type="text/plain"))
    assert got.endswith("hello world")
    assert "note" not in got


async def test_a_body_packed_as_nobody_asked_for_is_a_clear_error(web: WebServer) -> None:
    body = bytes(range(128, 256)) * 2
    with pytest.raises(ToolError, match=r"packed as 'br', which was not asked for"):
        await fetch(web.page("/", body, Content_Encoding="br"))


async def test_bodies_within_bodies_are_unpacked_up_to_the_limit_only(web: WebServer) -> None:
    bomb = gzip.compress(gzip.compress(b"A" * 50_000_000))
    got = await fetch(web.page("/", bomb, Content_Encoding="gzip"), limits=FetchLimits(size=50_000))
    assert "note: the answer is not whole; it was read up to 50000 bytes" in got or "ends too early" in got


# --- types ---

SHOWN = {
    "csv as octets": ("application/octet-stream", b"a,b\n1,2"),
    "csv as excel": ("application/vnd.ms-excel", b"a,b\n1,2"),
    "json lines": ("application/jsonl", b'{"a": 1}\n{"b": 1,2}'),
    "ndjson": ("application/x-ndjson", b'{"a": 1}\n{"b": 1,2}'),
    "json sequence": ("application/json-seq", b'\x1e{"a": "1,2"}\n\x1e1,2'),
    "yaml": ("application/yaml", b"a: 1,2"),
    "vendor's yaml": ("application/vnd.oai.openapi", b"a: 1,2"),
    "a download": ("application/force-download", b"a,b\n1,2"),
    "octets of another kind": ("binary/octet-stream", b"a,b\n1,2"),
    "no type": (None, b"a,b\n1,2"),
    "no slash": ("csv", b"a,b\n1,2"),
    "an empty type": ("", b"a,b\n1,2"),
    "packed, as a file": ("application/gzip", gzip.compress(b"a,b\n1,2")),
    "byte order mark": ("application/octet-stream", "\ufeffä,b\n1,2".encode()),
    "utf-16": ("text/csv", "ä,b\n1,2".encode("utf-16")),
    "utf-16 as octets": ("application/octet-stream", "ä,b\n1,2".encode("utf-16")),
    "utf-16 without a mark": ("text/csv", "ä,b\n1,2".encode("utf-16-le")),
    "utf-16 of another order": ("text/csv", "ä,b\n1,2".encode("utf-16-be")),
    "utf-32": ("text/csv", "ä,b\n1,2".encode("utf-32")),
    "utf-16 that is none": ("text/csv; charset=utf-16", "ä,b\n1,2".encode()),
    "an svg": ("image/svg+xml", b"<svg>1,2"),
}


@pytest.mark.parametrize(("kind", "body"), SHOWN.values(), ids=list(SHOWN))
async def test_text_is_shown_whatever_its_type(web: WebServer, kind: str | None, body: bytes) -> None:
    web.routes["/"] = answer(body, "200 OK", {} if kind is None else {"Content-Type": kind})
    got = await fetch(web.url)
    assert "1,2" in got.partition("\n\n")[2]
    assert "\ufeff" not in got
    assert "ä" in got or "ä".encode() not in body


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/octet-stream", b"\x7fELF\2\1\1" + bytes(50)),
        ("text/plain", b"PK\3\4\x14\0\0\0\x08\0" * 20),
        ("text/html", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 4),
        ("application/pdf", b"%PDF-1.7\n" + b"text " * 100),
        ("application/octet-stream", b"%PDF-1.7\n" + b"text " * 100),
        ("video/mp4", b"text"),
        ("application/gzip", gzip.compress(bytes(range(256)))),
    ],
)
async def test_what_is_no_text_is_described_only(web: WebServer, kind: str, body: bytes) -> None:
    got = await fetch(web.page("/", body, Content_Type=kind))
    assert got.endswith(f"note: this is no text, but a file of {len(body)} bytes; its content is not shown")


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ("naïve café".encode("cp1252"), "naïve café"),
        (b"<meta charset=iso-8859-2>" + "Łódź".encode("iso8859-2"), "Łódź"),
        ("日本語".encode() + b"\xff" + "日本語".encode(), "日本語\ufffd日本語"),
    ],
)
async def test_text_that_is_not_in_the_charset_it_states_is_read(web: WebServer, body: bytes, shown: str) -> None:
    assert (await fetch(web.page("/", body))).endswith(shown)


async def test_html_as_octets_is_read_as_html(web: WebServer) -> None:
    got = await fetch(web.page("/", "<!DOCTYPE html><title>T</title><p>x", Content_Type="application/octet-stream"))
    assert got.endswith("title: T\n\nx")
