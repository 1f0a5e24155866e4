from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Callable

import pytest
from flask import Flask, Response

from pibot.errors import JobNotFound, LLMUnavailable, SettingsError, StoreError, UnknownSkill, WorkerBusy
from pibot.settings import Secret
from pibot.web import ConnectionLimits, KeyRing, Server, WaitingRoom, answer, create_app, json_body, wait_preference
from pibot.web.keys import OWNER
from pibot.web.server.channel import Channel
from tests.support.serving import Answer, ask, serving

KEY = "schlüssel-7f3a"


def make_app(key: str | None = None) -> Flask:
    app = create_app(
        __name__, keys=None if key is None else KeyRing([(Secret(key), OWNER)]), open_paths=("/open",), max_body=1000
    )

    @app.get("/open")
    def open_() -> Response:
        return answer({"open": True})

    @app.route("/echo", methods=["GET", "POST"])
    def echo() -> Response:
        return answer({"body": json_body()})

    @app.get("/wait")
    def wait() -> Response:
        return answer({"seconds": wait_preference(60.0)})

    @app.get("/raise/<name>")
    def raise_(name: str) -> Response:
        raise {
            "busy": WorkerBusy("t1"),
            "skill": UnknownSkill("x", ("a", "b")),
            "job": JobNotFound("no job 'j'"),
            "store": StoreError("the disk is full"),
            "llm": LLMUnavailable("no model"),
            "bug": ZeroDivisionError("a secret detail"),
        }[name]

    return app


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(make_app()) as port:
        yield port


@pytest.fixture(scope="module")
def locked_port() -> Iterator[int]:
    with serving(make_app(KEY)) as port:
        yield port


def raw(port: int, *parts: bytes) -> bytes:
    """Send exactly these bytes, and read until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        for part in parts:
            connection.sendall(part)
        got = b""
        while chunk := connection.recv(65536):
            got += chunk
        return got


# --- the key ---


def bearer(value: str) -> dict[str, str]:
    return {"Authorization": "Bearer " + value.encode().decode("latin-1")}


def test_without_the_key_only_the_open_paths_answer(locked_port: int) -> None:
    assert ask(locked_port, "GET", "/open").status == 200
    refused = ask(locked_port, "POST", "/echo", {"a": 1})
    assert refused.status == 401
    assert refused.json()["success"] is False
    assert "PIBOT_API_KEY" in refused.json()["error"]
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert ask(locked_port, "GET", "/nowhere").status == 401


def test_the_right_key_is_accepted(locked_port: int) -> None:
    assert ask(locked_port, "POST", "/echo", [1], headers=bearer(KEY)).json() == {"body": [1]}


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Token x",
        "Bearer \xff\xfe",
        "Basic !!!",
        "Basic Og==",
        "Bearer " + "x" * 9000,
    ],
)
def test_a_wrong_key_of_any_form_is_refused_and_breaks_nothing(locked_port: int, header: str) -> None:
    assert ask(locked_port, "GET", "/wait", headers={"Authorization": header}).status == 401


def test_http_basic_is_neither_accepted_nor_offered(locked_port: int) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}
    refused = ask(locked_port, "GET", "/wait", headers=basic)
    assert refused.status == 401
    assert "Basic" not in refused.headers["WWW-Authenticate"]


# --- another site's page ---


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
    ],
)
def test_a_change_from_another_sites_page_is_refused(port: int, headers: dict[str, str], status: int) -> None:
    assert ask(port, "POST", "/echo", {}, headers=headers).status == status


def test_the_servers_own_page_may_make_a_change(port: int) -> None:
    assert ask(port, "POST", "/echo", {}, headers={"Origin": f"http://127.0.0.1:{port}"}).status == 200


# --- bodies ---


@pytest.mark.parametrize(
    "body",
    [b"", b"  ", b"{", b"\xff", b"NaN", b'{"a": Infinity}', b"[" * 900, b"{'a': 1}"],
)
def test_a_body_that_is_not_json_is_a_400_that_says_so(port: int, body: bytes) -> None:
    refused = ask(port, "POST", "/echo", body)
    assert refused.status == 400
    assert refused.json()["error"].startswith("the body is")


def test_a_body_is_json_whatever_its_content_type_says(port: int) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert ask(port, "POST", "/echo", b'{"a": "\xc3\xbc"}', headers=headers).json() == {"body": {"a": "ü"}}


def test_a_body_beyond_the_limit_is_a_413_and_is_not_read(port: int) -> None:
    refused = ask(port, "POST", "/echo", b"x" * 1001)
    assert refused.status == 413
    assert "the limit is 1000" in refused.json()["error"]
    # The rest never arrives: a server that read it would hang here.
    assert b" 413 " in raw(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\nx")


def test_a_chunked_body_is_refused_and_the_bytes_after_it_are_not_a_request(port: int) -> None:
    smuggled = b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n"
    got = raw(
        port, b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + smuggled
    )
    assert b" 411 " in got
    assert got.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("length", [b"-5", b"+0", b"abc", b"1e3", b""])
def test_a_malformed_length_is_a_client_error(port: int, length: bytes) -> None:
    got = raw(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: " + length + b"\r\n\r\n")
    assert got.split(b" ")[1][:1] == b"4", got


def test_headers_beyond_the_limit_are_refused(port: int) -> None:
    assert b" 413 " in raw(port, b"GET /open HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 70_000 + b"\r\n\r\n")


@pytest.mark.parametrize("size", [20_000, 63_000, 1_000_000])
def test_a_key_of_any_length_is_a_client_error(locked_port: int, size: int) -> None:
    sent = b"GET /wait HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer " + b"x" * size + b"\r\n\r\n"
    try:
        got = raw(locked_port, sent)
    except ConnectionError:  # the server closed the connection before all of it was sent
        got = b"HTTP/1.1 413 "
    assert got.split(b" ")[1] in (b"401", b"413", b"429"), got


@pytest.mark.parametrize(
    "head",
    [
        b"GET /wait HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\x80\r\n",
        b"GET /wait HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer\r\n",
        b"GET /wait HTTP/1.1\r\nHost: x\r\nAuthorization\r\n",
        b"GET /wait HTTP/1.1\r\nHost: x\r\n: empty\r\n",
        b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n",
        b"GET /\xff\x01 HTTP/1.1\r\nHost: x\r\n",
        b"GET wait HTTP/1.1\r\nHost: x\r\n",
        b"GET http://[::1/wait HTTP/1.1\r\nHost: x\r\n",
        b"GET /wait HTTP/9.9\r\nHost: x\r\n",
        b"GET /wait\r\n",
        b"\x16\x03\x01\x02\x00 /wait HTTP/1.1\r\nHost: x\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nOrigin: http://[\r\nContent-Length: 0\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: \xb2\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999999999\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n",
        b"POST /echo HTTP/1.1\r\nHost: \xff\r\nOrigin: x\r\nContent-Length: 0\r\n",
        b"POST /echo HTTP/1.1\r\nHost: a b\r\nContent-Length: 0\r\n",
    ],
)
def test_a_malformed_request_is_a_client_error_and_not_a_server_error(locked_port: int, head: bytes) -> None:
    got = raw(locked_port, head + b"Connection: close\r\n\r\n")
    assert got.split(b" ")[1][:1] == b"4" or got.split(b" ")[1] in (b"501", b"505"), got
    assert ask(locked_port, "GET", "/open").status == 200


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 0\r\nContent-Length: 34\r\n",
        b"Content-Length: 0\r\nHost: y\r\n",
        b"Content-Length: 0\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: 0, 34\r\n",
    ],
)
def test_an_ambiguous_request_is_refused_and_the_bytes_after_it_are_not_a_request(port: int, head: bytes) -> None:
    smuggled = b"GET /open HTTP/1.1\r\nHost: x\r\n\r\n"
    got = raw(port, b"POST /echo HTTP/1.1\r\nHost: x\r\nOrigin: http://[\r\n" + head + b"\r\n" + smuggled)
    assert b'"open": true' not in got
    assert got.split(b" ")[1][:1] == b"4" or got.split(b" ")[1] == b"501", got


@pytest.mark.parametrize("origin", ["http://[", "http://[::1", "x", "://", "http://\xff"])
def test_a_malformed_origin_counts_as_another_site(port: int, origin: str) -> None:
    assert ask(port, "POST", "/echo", {}, headers={"Origin": origin}).status == 403


# --- errors ---


@pytest.mark.parametrize(
    ("name", "status", "extra"),
    [
        ("busy", 409, {"status": "busy", "current_task": "t1"}),
        ("skill", 400, {"field": "skills", "skills": ["a", "b"]}),
        ("job", 404, {}),
        ("store", 503, {}),
        ("llm", 502, {}),
        ("bug", 500, {}),
    ],
)
def test_an_error_has_its_status_and_one_sentence(port: int, name: str, status: int, extra: dict[str, object]) -> None:
    got = ask(port, "GET", f"/raise/{name}")
    assert got.status == status
    body = got.json()
    assert body.pop("success") is False
    assert body.pop("error")
    assert body == extra
    assert ("Retry-After" in got.headers) == (status == 503 or name == "busy")


def test_a_defect_shows_no_details(port: int) -> None:
    assert b"secret" not in ask(port, "GET", "/raise/bug").body


def test_an_unknown_path_and_method_are_json_errors(port: int) -> None:
    assert ask(port, "GET", "/nowhere").json() == {"success": False, "error": "there is nothing at /nowhere"}
    wrong = ask(port, "DELETE", "/echo")
    assert (wrong.status, wrong.json()["error"]) == (405, "/echo does not take DELETE")
    assert "POST" in wrong.headers["Allow"]


# --- waiting ---


@pytest.mark.parametrize(
    ("prefer", "seconds"),
    [
        (None, 0),
        ("wait=10", 10),
        ("respond-async, wait=7", 7),
        ('wait="5"; foo=bar', 5),
        ("wait=100", 60),
        ("wait=-1", 0),
        ("wait=x", 0),
        ("await=9", 0),
        ("wait=9999999999999", 0),
    ],
)
def test_the_wait_preference_follows_rfc_7240(port: int, prefer: str | None, seconds: float) -> None:
    headers = None if prefer is None else {"Prefer": prefer}
    assert ask(port, "GET", "/wait", headers=headers).json() == {"seconds": seconds}


def test_a_request_does_not_wait_in_a_full_waiting_room() -> None:
    room = WaitingRoom(1)
    inside, leave = threading.Event(), threading.Event()

    def first(seconds: float) -> float:
        inside.set()
        leave.wait(10)
        return seconds

    thread = threading.Thread(target=room.wait, args=(5.0, first))
    thread.start()
    assert inside.wait(10)
    assert room.wait(5.0, lambda seconds: seconds) == 0.0
    leave.set()
    thread.join()
    assert room.wait(5.0, lambda seconds: seconds) == 5.0


def test_one_address_cannot_hold_every_place() -> None:
    room = WaitingRoom(3, each=2)

    def within(who: str, inner: Callable[[float], object]) -> object:
        return room.wait(5.0, inner, network=who)

    def third(_: float) -> tuple[object, object]:
        return within("a", lambda seconds: seconds), within("b", lambda seconds: seconds)

    assert within("a", lambda _: within("a", third)) == (0.0, 5.0)
    assert within("a", lambda seconds: seconds) == 5.0


# --- the server ---


# cheroot leaves a socket that it could not bind to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_taken_port_is_a_clear_error(port: int) -> None:
    with pytest.raises(SettingsError, match=rf"port {port}: Address already in use.*--port"):
        Server(make_app(), host="127.0.0.1", port=port)


def test_a_connection_serves_many_requests(port: int) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    for _ in range(3):
        connection.request("GET", "/open")
        assert connection.getresponse().read() == b'{"open": true}\n'
    local = connection.sock.getsockname()
    connection.request("GET", "/open")
    connection.getresponse().read()
    assert connection.sock.getsockname() == local
    connection.close()


SERVED = """
import threading
from flask import Flask
from pibot.web import serve
app = Flask("x")
release = threading.Event()
@app.get("/slow")
def slow():
    print("in flight", flush=True)
    release.wait(20)
    return "finished"
def stop():
    print("stopping", flush=True)
    release.set()
serve(app, host="127.0.0.1", port=0, stop=stop, ready=lambda port: print(port, flush=True))
print("served", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_request_in_flight_and_ends_with_status_0(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", SERVED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    answers: list[Answer] = []
    client = threading.Thread(target=lambda: answers.append(ask(port, "GET", "/slow")))
    client.start()
    assert process.stdout.readline() == "in flight\n"
    os.kill(process.pid, number)
    client.join()
    assert [(a.status, a.body) for a in answers] == [(200, b"finished")]
    assert process.wait(20) == 0
    assert process.stdout.read() == "stopping\nserved\n"
    process.stdout.close()


def test_json_answers_end_with_a_newline_for_the_terminal() -> None:
    with Flask("x").app_context():
        assert answer({"ü": 1}).get_data() == '{"ü": 1}\n'.encode()
        assert json.loads(answer([]).get_data()) == []


def test_half_an_escaped_emoji_in_an_answer_is_replaced(port: int) -> None:
    sent = ask(port, "POST", "/echo", rb'"half \ud83d, whole \ud83d\ude00"')

    assert sent.status == 200
    assert sent.json() == {"body": "half ?, whole \N{GRINNING FACE}"}


def test_cheroot_can_ask_a_request_that_outlasts_the_stop_whether_its_connection_is_closed() -> None:
    here, there = socket.socketpair()
    with there:
        channel = Channel(here, ConnectionLimits(), time.monotonic)
        assert not channel.closed
        here.close()
        assert channel.closed
