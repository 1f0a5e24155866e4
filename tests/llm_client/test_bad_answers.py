"""Unreachable servers, and servers that answer with something else than a completion, over both backends."""

from __future__ import annotations

import asyncio
import gzip
import shlex
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from pibot.errors import LLMProtocolError, LLMRejected, LLMUnavailable
from tests.llm_client.conftest import HELLO, FakeTime, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import (
    ScriptedLLM,
    html,
    raw,
    redirect,
    reply_json,
    text,
)


async def test_an_unreachable_server_is_reported_with_its_address_and_the_variable(
    make_client: MakeClient, time: FakeTime
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, but not listening
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(LLMUnavailable) as caught:
            await make_client(base_url=url, retries=2).complete(HELLO)

    assert url in str(caught.value)
    assert "VOLC_BASE_URL" in str(caught.value)
    assert "asked 3 times" in str(caught.value)
    assert len(time.slept) == 2


async def test_the_timeout_also_bounds_connecting_to_a_dead_host(make_client: MakeClient) -> None:
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(
            0
        )  # never accepts: Linux queues one connection and drops the packets of the others, like a dead host
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"

        with pytest.raises(LLMUnavailable, match=r"(took no connection|gave no whole answer) within 0\.2 seconds"):
            await make_client(base_url=url, retries=0).complete(HELLO, timeout=0.2)


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        pytest.param(html("<html><title>Log in</title></html>"), "Log in", id="a page"),
        pytest.param(raw("pong", content_type="text/plain"), "pong", id="text"),
        pytest.param(reply_json({"status": "healthy"}), "no choices", id="another JSON"),
        pytest.param(reply_json([1, 2]), "no choices", id="a list"),
        pytest.param(reply_json({"message": "pong"}), "pong", id="a message"),
        pytest.param(reply_json({"choices": [{"text": "old protocol"}]}), "no message", id="no message"),
        pytest.param(reply_json({"choices": {"a": 1}}), "no message", id="choices as an object"),
        pytest.param(raw(b"\xff\xfe\xfa not text"), "no JSON", id="no text"),
    ],
)
async def test_an_answer_that_is_no_completion_names_the_variable_and_is_not_retried(
    make_client: MakeClient, server: ScriptedLLM, reply: Reply, words: str
) -> None:
    server.enqueue(reply)

    with pytest.raises(LLMProtocolError) as caught:
        await make_client().complete(HELLO)

    assert words in str(caught.value)
    assert "VOLC_BASE_URL" in str(caught.value)
    server.assert_done()


@pytest.mark.parametrize(
    "reply", [raw('{"id": "x", "choi'), reply_json({"choices": []})], ids=["broken JSON", "empty choices"]
)
async def test_a_server_that_keeps_sending_no_completion_ends_as_a_protocol_error(
    make_client: MakeClient, server: ScriptedLLM, reply: Reply
) -> None:
    server.answer_with(reply)

    with pytest.raises(LLMProtocolError, match="asked 3 times"):
        await make_client(retries=2).complete(HELLO)

    assert len(server.requests) == 3


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "compressed"])
async def test_an_answer_beyond_the_limit_is_not_read_to_its_end(
    make_client: MakeClient, server: ScriptedLLM, packed: bool
) -> None:
    body = text("x" * (9 * 1024 * 1024)).body
    server.enqueue(raw(gzip.compress(body, 1), headers={"Content-Encoding": "gzip"}) if packed else raw(body))

    with pytest.raises(LLMUnavailable, match="larger than 8 MiB"):
        await make_client().complete(HELLO)

    assert len(server.requests) == 1


async def test_a_huge_error_is_cut(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(raw("no\n" * 1_000_000, status=400, content_type="text/plain"))

    with pytest.raises(LLMRejected) as caught:
        await make_client().complete(HELLO)

    assert len(str(caught.value)) < 800
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed_with_the_key(
    make_client: MakeClient, server: ScriptedLLM, status: int
) -> None:
    with ScriptedLLM(text("give me the key")) as elsewhere:
        server.enqueue(redirect(f"{elsewhere.url}/chat/completions?token=t0ken-in-the-query", status=status))

        with pytest.raises(LLMRejected) as caught:
            await make_client().complete(HELLO)

        assert elsewhere.requests == elsewhere.other_requests == []
        assert elsewhere.url in str(caught.value)
    assert "t0ken-in-the-query" not in str(caught.value)
    assert caught.value.status == status


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with the openssl program")
async def test_an_untrusted_certificate_is_reported_without_retries(
    make_client: MakeClient, time: FakeTime, tmp_path: Path
) -> None:
    await asyncio.to_thread(_make_certificate, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(never, "127.0.0.1", 0, ssl=context)
    try:
        port = listening.sockets[0].getsockname()[1]
        with pytest.raises(LLMUnavailable, match=r"certificate that is not accepted .*clock"):
            await make_client(base_url=f"https://127.0.0.1:{port}/v1").complete(HELLO)
    finally:
        listening.close()
        await listening.wait_closed()
    assert time.slept == []


def _make_certificate(folder: Path) -> None:
    subprocess.run(
        shlex.split(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=127.0.0.1"
            " -keyout key.pem -out cert.pem"
        ),
        cwd=folder,
        check=True,
        capture_output=True,
    )
