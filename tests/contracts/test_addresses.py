"""Where a worker listens, as it registers."""

from __future__ import annotations

from typing import Any

import pytest

from pibot.contracts import WorkerAddress
from pibot.errors import InvalidRequest


@pytest.mark.parametrize(
    "url",
    [
        None,
        "",
        "192.168.10.66:5000",
        "ftp://192.168.10.66",
        "http://",
        "http://me:secret@192.168.10.66:5000",
        "http://192.168.10.66:5000/task",
        "http://192.168.10.66:5000?x=1",
        "http://192.168.10.66:5000#x",
        "http://192.168.10.66:0",
        "http://192.168.10.66:70000",
        "http://0.0.0.0:5000",
        "http://224.0.0.1:5000",
        "http://[::]:5000",
        "http://[fe80::1%eth0]:5000",
        "http://a b:5000",
        "http://a..b:5000",
        f"http://{'a' * 64}.lan:5000",
        "http://exämple:5000",
        "http://[::1:5000",
        "http://192.168.10.66:5000\nHost: x",
    ],
)
def test_an_invalid_url_is_refused_with_the_name_of_its_field(url: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        WorkerAddress.from_json({"worker_id": "attic", "url": url})
    assert caught.value.field == "url"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://192.168.10.66:5000", "http://192.168.10.66:5000"),
        ("https://pi.local/", "https://pi.local:443"),
        ("http://[fd00::5]:5001", "http://[fd00::5]:5001"),
    ],
)
def test_a_url_holds_an_ip_address_or_a_host_name_and_a_port(url: str, shown: str) -> None:
    assert WorkerAddress.from_json({"worker_id": "attic", "url": url}).url == shown


@pytest.mark.parametrize(("worker_id", "field"), [("../x", "worker_id"), ("x" * 65, "worker_id"), (None, "worker_id")])
def test_an_invalid_worker_id_is_refused_with_the_name_of_its_field(worker_id: Any, field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        WorkerAddress.from_json({"worker_id": worker_id, "url": "http://192.168.10.66:5000"})
    assert caught.value.field == field
