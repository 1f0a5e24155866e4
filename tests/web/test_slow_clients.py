"""Slow clients over real sockets, hostile or not, hold no thread, and other clients are answered."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from collections.abc import Iterator
from importlib.resources import files

import pytest
from flask import Flask, Response

from pibot.settings import Secret
from pibot.web import ConnectionLimits, KeyRing, Server, answer, create_app, json_body
from pibot.web.keys import OWNER
from pibot.web.server.channel import Channel, TooSlow
from pibot.web.server.intake import _BODY
from tests.support.serving import ask, serving

PATIENT = ConnectionLimits(head=60.0, idle=60.0, body=60.0, send=60.0)
"""Keeps slow clients connected for the whole test, which must hold while they are there."""

KEY = "a-key-of-the-owner"


def make_app(entered: threading.Semaphore | None = None) -> Flask:
    app = create_app(__name__, keys=KeyRing([(Secret(KEY), OWNER)]), open_paths=("/health", "/large", "/echo"))

    @app.get("/health")
    def health() -> Response:
        return answer({"status": "healthy"})

    @app.get("/large")
    def large() -> Response:
        return Response(b"x" * 32 * 1024 * 1024)

    @app.post("/echo")
    def echo() -> Response:
        if entered is not None:
            entered.release()
        return answer({"bytes": len(str(json_body()))})

    return app


@contextlib.contextmanager
def clients(port: int, number: int, sent: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that have sent these bytes and send no more."""
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(number)
        ]
        for connection in connections:
            if sent:
                connection.sendall(sent)
        yield connections


def read_all(connection: socket.socket) -> bytes:
    got = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            got += chunk
    return got


HALF = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: "


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"G",
        HALF,
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n",  # answered, and kept open
    ],
)
def test_health_answers_while_50_slow_connections_are_open(sent: bytes) -> None:
    with serving(make_app(), threads=2, limits=PATIENT) as port, clients(port, 50, sent):
        assert ask(port, "GET", "/health").status == 200


def test_health_answers_while_50_clients_send_large_bodies_slowly() -> None:
    start = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n[1"
    entered = threading.Semaphore(0)
    with serving(make_app(entered), threads=4, limits=PATIENT) as port, clients(port, 50, start):
        assert entered.acquire(timeout=30)  # one network may use one of the two threads that read bodies
        assert ask(port, "GET", "/health").status == 200
        assert not entered.acquire(blocking=False)


def test_a_large_body_waits_its_turn_and_is_read_then() -> None:
    start = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100001\r\n\r\n"
    entered = threading.Semaphore(0)
    with serving(make_app(entered), threads=4, limits=PATIENT) as port, clients(port, 3, start) as slow:
        assert entered.acquire(timeout=30)
        for connection in slow:
            connection.sendall(b"[" + b"1," * 1999 + b"11" + b" " * 95999 + b"]")
        assert [b" 200 OK" in read_all(connection) for connection in slow] == [True] * 3


def test_a_head_that_does_not_arrive_in_time_is_answered_408_however_steadily_it_drips() -> None:
    with serving(make_app(), limits=ConnectionLimits(head=0.5)) as port, clients(port, 1, HALF) as (slow,):
        stopped = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stopped.wait(0.05):
                    slow.sendall(b"x")

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert read_all(slow).startswith(b"HTTP/1.1 408 ")
        finally:
            stopped.set()
            dripping.join()


def test_a_silent_connection_is_closed() -> None:
    with serving(make_app(), limits=ConnectionLimits(head=0.1)) as port, clients(port, 1, b"") as (silent,):
        assert read_all(silent) == b""


def test_an_idle_connection_is_closed() -> None:
    sent = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with serving(make_app(), limits=ConnectionLimits(idle=0.1)) as port, clients(port, 1, sent) as (idle,):
        assert read_all(idle).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("length", [200, 900_000])
def test_a_body_that_does_not_arrive_in_time_is_answered_408(length: int) -> None:
    sent = f"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n[1".encode()
    limits = ConnectionLimits(head=0.2, body=0.2, rate=1e9)  # the intake waits for a small body together with its head
    with serving(make_app(), limits=limits) as port, clients(port, 1, sent) as (slow,):
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


def test_the_bytes_of_a_large_body_earn_its_time_as_they_arrive() -> None:
    sent = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n[1"
    limits = ConnectionLimits(body=0.2, rate=1000)  # a quarter of an hour for all of it, but nothing arrives
    with serving(make_app(), limits=limits) as port, clients(port, 1, sent) as (slow,):
        assert read_all(slow).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(("path", "length", "status"), [("/locked", 900_000, b"401"), ("/echo", 9_000_000, b"413")])
def test_a_refused_body_holds_no_thread_however_steadily_it_arrives(path: str, length: int, status: bytes) -> None:
    sent = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
    limits = ConnectionLimits(body=0.3, rate=100)
    with serving(make_app(), limits=limits) as port, clients(port, 1, sent) as (slow,):
        stopped = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not stopped.wait(0.05):
                    slow.sendall(b"x" * 100)

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            assert slow.recv(65536).split()[1] == status
        finally:
            stopped.set()
            dripping.join()


def test_a_request_without_a_key_is_answered_before_its_body_arrives() -> None:
    sent = b"POST /locked HTTP/1.1\r\nHost: x\r\nContent-Length: 900000\r\n\r\n[1"
    with serving(make_app(), limits=ConnectionLimits(body=0.2, rate=1e9)) as port, clients(port, 1, sent) as (slow,):
        assert read_all(slow).startswith(b"HTTP/1.1 401 ")


def test_an_answer_that_needs_no_key_holds_no_thread_if_the_client_does_not_take_it() -> None:
    hub = files("pibot.master_hub").joinpath("openapi.json").read_bytes()
    app = make_app()
    app.add_url_rule("/health/long", view_func=lambda: Response(hub))
    sent = b"GET /health/long HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + KEY.encode() + b"\r\n\r\n"
    with serving(app, threads=2, limits=PATIENT) as port, contextlib.ExitStack() as stack:
        for _ in range(4):
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
            client.connect(("127.0.0.1", port))
            client.sendall(sent)
        assert ask(port, "GET", "/health").status == 200


def test_a_client_that_takes_its_answer_too_slowly_is_cut_off() -> None:
    sent = b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    with (
        serving(make_app(), threads=1, limits=ConnectionLimits(send=0.2, rate=1e9)) as port,
        clients(port, 1, sent) as (slow,),
    ):
        # The answer holds the only thread, so this request is answered once the server has given the answer up.
        assert ask(port, "GET", "/health").status == 200
        assert len(read_all(slow)) < 32 * 1024 * 1024


def test_a_client_that_takes_its_answer_bit_by_bit_is_cut_off_too() -> None:
    ours, theirs = socket.socketpair()
    seconds = itertools.count()  # each reading of the clock is a second later, so each wait takes a second
    channel = Channel(ours, ConnectionLimits(send=5, rate=1e9), lambda: float(next(seconds)))
    taken = threading.Thread(target=lambda: read_all(theirs))
    taken.start()
    with pytest.raises(TooSlow):
        channel.write(b"x" * 64 * 1024 * 1024)
    ours.close()
    taken.join()
    theirs.close()


def test_a_client_with_too_many_connections_loses_its_own_longest_waiting_one() -> None:
    limits = ConnectionLimits(head=60.0, connections=20, per_address=5)
    with serving(make_app(), limits=limits) as port, clients(port, 5, HALF) as slow:
        assert ask(port, "GET", "/health").status == 200
        assert read_all(slow[0]) == b""
        slow[4].sendall(b"x\r\nConnection: close\r\n\r\n")
        assert read_all(slow[4]).startswith(b"HTTP/1.1 200 ")


def test_the_addresses_of_one_ipv6_network_count_as_one() -> None:
    limits = ConnectionLimits(head=60.0, connections=20, per_address=5)
    numbers = itertools.count(1)

    class Listener:
        """Make every client come from another address of one network."""

        def __init__(self, listener: socket.socket) -> None:
            self._listener = listener

        def fileno(self) -> int:
            return self._listener.fileno()

        def accept(self) -> tuple[socket.socket, tuple[str, int]]:
            return self._listener.accept()[0], (f"2001:db8::{next(numbers)}", 1)

    server = Server(make_app(), host="127.0.0.1", port=0, limits=limits)
    intake = server._server._connections
    intake._listener = Listener(intake._listener)
    server.start()
    try:
        with clients(server.port, 6, HALF) as slow:
            assert read_all(slow[0]) == b""
    finally:
        server.stop()


def test_two_requests_in_one_packet_are_both_answered() -> None:
    first, last = (b"GET /health HTTP/1.1\r\nHost: x\r\n" + end + b"\r\n" for end in (b"", b"Connection: close\r\n"))
    with serving(make_app(), limits=PATIENT) as port, clients(port, 1, first + last) as (client,):
        assert read_all(client).count(b"200 OK") == 2


@pytest.mark.parametrize(
    "sent",
    [
        b"GARBAGE\r\n",
        b"GET /health HTTP/1.1\nHost: x\n\n",
        b"GET /health HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: 9x\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ],
)
def test_a_malformed_request_is_refused_at_once(sent: bytes) -> None:
    with serving(make_app(), limits=PATIENT) as port, clients(port, 1, sent) as (client,):
        assert client.recv(65536).split()[1] == b"400"


def test_a_head_without_an_end_is_refused() -> None:
    with serving(make_app(), limits=PATIENT) as port, clients(port, 1, b"") as (client,), contextlib.suppress(OSError):
        client.sendall(b"GET /health HTTP/1.1\r\n" + b"X-Long: " + b"x" * 80_000)
        assert client.recv(65536).split()[1] in (b"413", b"400")


def test_a_head_of_blank_lines_is_searched_once() -> None:
    # Searching each line together with all that follow would take half a minute.
    sent = b"GET /health HTTP/1.1\r\nHost: x\r\n" + b" \r\n" * 20_000 + b"Connection: close\r\n\r\n"
    with serving(make_app(), limits=PATIENT) as port, clients(port, 1, sent) as (client,):
        assert ask(port, "GET", "/health").status == 200
        assert read_all(client).startswith(b"HTTP/1.1 ")
    found = _BODY.search(b"Host: x\r\n \r\n \r\n Expect: 100-continue\r\n")
    assert found is not None
    assert found[0] == b"\n Expect: 100-continue"


def test_a_client_that_expects_100_continue_gets_it() -> None:
    sent = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"
    with serving(make_app(), limits=PATIENT) as port, clients(port, 1, sent) as (client,):
        assert client.recv(65536).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(b"[1]")
        assert b" 200 OK" in read_all(client)
