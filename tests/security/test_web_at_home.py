"""web_fetch is sent into a home by public addresses. Without the control, it reaches each of them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.security.home_network import NAS, PORT, WORKER
from tests.support.processes import ROOT, clean_environment

pytestmark = pytest.mark.system

ADDRESSES = {
    "the machine's own IPv6 address": WORKER[0],
    "the machine's own public IPv4 address": WORKER[1],
    "the public IPv6 address of a NAS": NAS[0],
    "the public IPv4 address of a NAS": NAS[1],
}


def fetched(url: str, *more: str) -> str:
    """Fetch ``url`` in a network namespace with the home's machines."""
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-m", "tests.security.home_network"]
    environment = clean_environment(PYTHONPATH=str(ROOT))
    return subprocess.run(
        [*command, url, *more], cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.mark.parametrize("address", ADDRESSES.values(), ids=list(ADDRESSES))
def test_a_home_is_not_reached_by(address: str) -> None:
    host = address.partition("/")[0]
    url = f"http://[{host}]:{PORT}/" if ":" in host else f"http://{host}:{PORT}/"
    assert f"it leads to {host}, which is not on the public web" in fetched(url)
    assert "secret" in fetched(url, "open")
