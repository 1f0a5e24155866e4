"""A worker tells its hub where it listens, or its owner why it can't."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

import pytest

from pibot.settings import Secret, Settings
from pibot.worker.joining import Joining


def connected_from(address: str) -> Any:
    """Return a connection to the hub whose own end is ``address``."""
    return SimpleNamespace(sock=SimpleNamespace(getsockname=lambda: (address, 40000)))


def own_address(listens: str, reaches_from: str) -> str:
    settings = Settings(worker_id="worker-1", api_key=Secret("k" * 20), hub_url="http://hub:5000", join_hub=True)
    return Joining(settings, listens, 5000)._own_address(connected_from(reaches_from)).url


def test_a_worker_that_listens_on_ipv4_only_does_not_register_an_ipv6_address() -> None:
    with pytest.raises(ValueError, match=r"listens on IPv4 only.*--host ::, or set PIBOT_HUB_URL to the hub's IPv4"):
        own_address("0.0.0.0", "fd00::7")


@pytest.mark.parametrize(
    ("listens", "reaches_from", "url"),
    [
        ("0.0.0.0", "192.168.10.66", "http://192.168.10.66:5000"),
        ("::", "fd00::7", "http://[fd00::7]:5000"),
        ("::", "::ffff:192.168.10.66", "http://192.168.10.66:5000"),
        ("192.168.10.66", "fd00::7", "http://192.168.10.66:5000"),
    ],
)
def test_a_worker_registers_where_it_listens(listens: str, reaches_from: str, url: str) -> None:
    assert own_address(listens, reaches_from) == url


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_a_worker_that_joins_over_ipv6_is_told_so_at_once(tmp_path: Any) -> None:
    from tests.support.processes import clean_environment, serving_process

    with socket.socket(socket.AF_INET6) as hub:
        try:
            hub.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
        hub.listen()
        environment = clean_environment(
            PIBOT_API_KEY="k" * 20, PIBOT_HUB_URL=f"http://[::1]:{hub.getsockname()[1]}", WORKER_ID="w"
        )
        with serving_process(tmp_path, ["-m", "pibot", "worker", "--port", "0"], environment) as worker:
            worker.wait_for_line(r"not_joined .*listens on IPv4 only")
