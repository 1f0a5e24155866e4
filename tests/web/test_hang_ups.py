"""Views that want to know whether their client still waits."""

from __future__ import annotations

import contextlib
import http.client
import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pibot.web import HANG_UP
from pibot.web.server.hang_ups import HangUps
from tests.support.serving import serving


class Views:
    """Requests that wait until the test lets them go on, and note when their client hangs up."""

    def __init__(self) -> None:
        self.begun: queue.Queue[str] = queue.Queue()
        self.gone: queue.Queue[str] = queue.Queue()
        self.go_on = threading.Event()

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        path = environ["PATH_INFO"]
        unwatch = environ[HANG_UP](lambda: self.gone.put(path))
        self.begun.put(path)
        self.go_on.wait(20)
        unwatch()
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]


@pytest.fixture
def views() -> Views:
    return Views()


@pytest.fixture
def port(views: Views) -> Iterator[int]:
    with serving(views) as port:
        yield port
        views.go_on.set()


@contextlib.contextmanager
def connected(port: int, path: str, views: Views) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", path)
        assert views.begun.get(timeout=20) == path
        yield connection


def test_the_view_of_a_client_that_hangs_up_is_told_and_no_other(port: int, views: Views) -> None:
    with connected(port, "/stays", views) as stays:
        with connected(port, "/leaves", views):
            pass
        assert views.gone.get(timeout=20) == "/leaves"
        views.go_on.set()
        assert stays.getresponse().read() == b"ok"
    assert views.gone.empty()


def test_a_client_that_resets_its_connection_has_hung_up(port: int, views: Views) -> None:
    with connected(port, "/resets", views) as connection:
        assert connection.sock is not None
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert views.gone.get(timeout=20) == "/resets"


def test_after_its_answer_a_view_is_told_nothing_more(port: int, views: Views) -> None:
    with connected(port, "/first", views) as connection:
        views.go_on.set()
        assert connection.getresponse().read() == b"ok"
    with connected(port, "/second", views) as connection:  # likely over the same descriptor
        assert connection.getresponse().read() == b"ok"
    assert views.gone.empty()


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


def test_a_client_that_is_gone_before_anybody_asks_is_told_of_at_once() -> None:
    hang_ups = HangUps()
    told: list[int] = []
    here, there = pair()
    there.close()
    with contextlib.closing(here):
        unwatch = hang_ups.watch(here.fileno(), lambda: told.append(1))
        hang_ups.tell()
        hang_ups.tell()
        unwatch()
    hang_ups.close()
    assert told == [1]


@pytest.mark.parametrize("first", ["unwatched", "closed"])
def test_a_watch_ends_in_any_order_with_its_connection_and_its_server(first: str) -> None:
    hang_ups = HangUps()
    told: list[int] = []
    here, there = pair()

    def tell() -> None:
        told.append(1)

    unwatch = hang_ups.watch(here.fileno(), tell)
    if first == "unwatched":
        unwatch()
    here.close()
    there.close()
    unwatch()
    unwatch()
    hang_ups.tell()
    hang_ups.close()
    hang_ups.tell()
    hang_ups.watch(0, tell)()
    assert told == []
