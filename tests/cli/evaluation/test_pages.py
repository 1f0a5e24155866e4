"""The server of the tasks' pages."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from pibot.cli.evaluation.pages import PageServer


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, exc.read().decode()


@pytest.fixture
def server() -> PageServer:
    return PageServer("127.0.0.1")


def test_pages_are_served_and_those_that_were_asked_for_are_known(server: PageServer) -> None:
    with server:
        one, other = server.address(), server.address()
        for address in (one, other):
            server.serve(address, {"": "<p>首页</p>", "room/two": "<p>2</p>"})
        assert fetch(one) == (200, "<p>首页</p>")
        assert fetch(f"{one}room/two?x=1") == (200, "<p>2</p>")
        assert fetch(f"{one}nowhere")[0] == 404
        assert server.asked(one) == {"", "room/two", "nowhere"}
        assert server.asked(other) == frozenset()


def test_an_address_that_is_no_runs_is_not_found(server: PageServer) -> None:
    with server:
        address = server.address()
        assert fetch(address)[0] == 404  # nothing is served there yet
        assert server.asked(address) == frozenset()
