"""The skill web_fetch, against real servers: refusals and errors."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pibot.errors import ToolError
from tests.skills.web_server import Names, WebServer, fetch, web_server


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        yield server


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    return tls


# --- redirects ---


async def test_redirects_are_followed_and_the_last_address_is_given(web: WebServer) -> None:
    web.page("/c", "<title>there</title>")
    web.page("/b", "", "307 Temporary Redirect", Location="c")
    url = web.page("/a", "", "301 Moved Permanently", Location="/b")
    assert (await fetch(url)).startswith(f"url: {web.url}/c\nstatus: 200 OK")


async def test_five_redirects_are_followed_and_no_more(web: WebServer) -> None:
    for n in range(10):
        web.page(f"/{n}", "end" if n == 9 else "", "200 OK" if n == 9 else "302 Found", Location=f"/{n + 1}")
    assert (await fetch(f"{web.url}/4")).endswith("end")
    with pytest.raises(ToolError, match="redirects more than 5 times"):
        await fetch(f"{web.url}/3")
    assert len(web.heads) == 12


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("file:///etc/passwd", "must begin with http"),
        ("gopher://x/", "must begin with http"),
        ("javascript:x", "must begin with http"),
        ("http://user:pw@127.0.0.1/", "password"),
        ("http://127.0.0.1:99999/", "is no address"),
    ],
)
async def test_a_redirect_to_an_address_that_is_not_fetched_is_a_clear_error(
    web: WebServer, target: str, words: str
) -> None:
    with pytest.raises(ToolError, match=words) as caught:
        await fetch(web.page("/", "", "302 Found", Location=target))
    assert "redirects to an address that can't be followed" in str(caught.value)


async def test_a_redirect_without_an_address_is_an_ordinary_answer(web: WebServer) -> None:
    assert "status: 302 Found" in await fetch(web.page("/", "where to?", "302 Found"))


# --- which addresses ---


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "must begin with http:// or https://"),
        ("example.com", "must begin with http:// or https://"),
        ("ftp://example.com/", "must begin with http:// or https://"),
        ("file:///etc/passwd", "must begin with http:// or https://"),
        ("http://", "address|host"),
        ("http:///path", "address|host"),
        ("http://user@example.com/", "password"),
        ("http://user:secret@example.com/", "password"),
        ("http://example.com:port/", "no address"),
        ("http://example.com:99999/", "no address"),
        ("http://[::1/", "no address"),
    ],
)
async def test_an_address_outside_the_web_is_refused(url: str, words: str) -> None:
    with pytest.raises(ToolError, match=words):
        await fetch(url)


# --- what goes wrong ---


async def test_a_servers_error_is_an_error_with_its_status_and_some_of_its_text(web: WebServer) -> None:
    with pytest.raises(ToolError) as caught:
        await fetch(web.page("/x", "<p>No such tea" + "x" * 5000, "404 Not Found"))
    assert str(caught.value).startswith(f"{web.url}/x answered with 404 Not Found:\n")
    assert "No such tea" in str(caught.value)
    assert len(str(caught.value)) < 1200


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "closed the connection without an answer"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "broke before the answer was whole"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "could not be fetched"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "could not be fetched"),
    ],
)
async def test_a_malformed_answer_is_a_clear_error(web: WebServer, sent: bytes, words: str) -> None:
    web.routes["/"] = sent
    with pytest.raises(ToolError, match=words):
        await fetch(web.url)


async def test_a_closed_port_is_a_clear_error() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        with pytest.raises(ToolError, match=f"no connection to 127.0.0.1 port {port}: "):
            await fetch(f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize("name", ["nowhere.example", "a" * 70 + ".example", "x" * 300])
async def test_a_name_that_does_not_exist_is_a_clear_error(name: str) -> None:
    with pytest.raises(ToolError, match=r"could not be fetched: the name .* can't be resolved"):
        await fetch(f"http://{name}/", resolver=Names())


@pytest.mark.parametrize("host", ["a" * 70 + ".example", "a..b"])
async def test_a_name_that_no_resolver_accepts_is_a_clear_error(host: str) -> None:
    with pytest.raises(ToolError, match=r"could not be fetched|is no address"):
        await fetch(f"http://{host}/")


async def test_a_server_without_tls_is_a_clear_error_for_https(web: WebServer) -> None:
    with pytest.raises(ToolError, match=r"no secure connection to 127.0.0.1"):
        await fetch(web.url.replace("http", "https"))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes the certificate, is not installed")
async def test_a_self_signed_certificate_is_a_clear_error(self_signed: ssl.SSLContext) -> None:
    async with web_server(self_signed) as web:
        with pytest.raises(ToolError, match=r"the certificate of 127.0.0.1 is not valid: .*certificate"):
            await fetch(web.url)
        assert web.heads == []
