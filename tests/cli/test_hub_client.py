"""The command waits when the hub answers 429."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from flask import Flask, Response

from pibot.cli.hub_client import UNREACHABLE, HubClient, HubError
from pibot.settings import Settings
from pibot.web import answer
from tests.support.serving import serving


@contextmanager
def hub(*retry_after: str) -> Iterator[tuple[HubClient, Sequence[float]]]:
    """Run a hub that answers 429 with each of these times in turn, then 200; yields a client and its sleeps."""
    app = Flask(__name__)
    refusals = list(retry_after)
    slept: list[float] = []

    @app.post("/task")
    def task() -> Response:
        if refusals:
            return answer({"success": False, "error": "too many"}, 429, {"Retry-After": refusals.pop(0)})
        return answer({"success": True})

    with serving(app) as port:
        yield HubClient(Settings(hub_url=f"http://127.0.0.1:{port}"), slept.append), slept


def test_it_repeats_the_request_after_the_time_that_the_hub_names() -> None:
    with hub("3", "60") as (client, slept):
        assert client.post("/task", {}) == {"success": True}
        assert slept == [3, 60]


@pytest.mark.parametrize(
    ("waits", "waited"), [(["100", "21"], [100]), (["3600"], []), (["x"], []), (["-1"], []), (["9" * 5000], [])]
)
def test_it_gives_up_if_that_would_take_too_long(waits: list[str], waited: list[int]) -> None:
    with hub(*waits) as (client, slept):
        with pytest.raises(HubError, match="too many") as caught:
            client.post("/task", {})
        assert caught.value.exit_code == UNREACHABLE
        assert slept == waited
