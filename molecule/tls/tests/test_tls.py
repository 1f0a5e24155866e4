"""HTTPS with the fleet's own CA: which side trusts which, with real handshakes."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from conftest import Lab

testinfra_hosts = ["pibot-master"]

WORKERS = ("worker-1", "worker-2", "worker-3")
FOLDERS = {"pibot-master": "/home/pi/pibot", **dict.fromkeys(WORKERS, "/home/pi/pibot-worker")}
MASTERS_OWN = "--cacert ~/pibot/tls/ca.crt --cert ~/pibot/tls/host.crt --key ~/pibot/tls/host.key"


def address(lab: Lab, name: str) -> str:
    return str(lab.hosts[name]["ansible_host"])


def trusting(lab: Lab) -> ssl.SSLContext:
    """Return a context that trusts the fleet's CA, as a browser that was given it."""
    return ssl.create_default_context(cafile=lab.state / "secrets" / "tls" / "ca.crt")


def ask(lab: Lab, context: ssl.SSLContext, path: str, **headers: str) -> tuple[int, bytes]:
    """Send one request to the master from this computer."""
    connection = http.client.HTTPSConnection(address(lab, "pibot-master"), 5000, timeout=20, context=context)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def curl(lab: Lab, name: str, arguments: str, path: str = "/health") -> str:
    """Request `path` of that host with curl on the master; return the status, or curl's error."""
    url = f"https://{address(lab, name)}:5000{path}"
    command = f"curl -sS --max-time 20 -o /dev/null -w '%{{http_code}}' {arguments} {url} 2>&1"
    return lab.shell("pibot-master", command, check=False)


def test_only_a_client_that_has_the_ca_trusts_the_dashboard(lab: Lab) -> None:
    assert ask(lab, trusting(lab), "/health")[0] == 200
    status, page = ask(lab, trusting(lab), "/login", Accept="text/html")
    assert (status, b'type="password"' in page) == (200, True)
    with pytest.raises(ssl.SSLCertVerificationError):
        ask(lab, ssl.create_default_context(), "/health")


def test_the_certificate_is_for_every_name_of_the_master(lab: Lab) -> None:
    master = address(lab, "pibot-master")
    for name in (master, "127.0.0.1", "localhost", "pibot-master"):
        assert lab.shell(
            "pibot-master", f"curl -sS --cacert ~/pibot/tls/ca.crt --connect-to ::{master}: https://{name}:5000/health"
        )


@pytest.mark.parametrize("name", ["pibot-master", *WORKERS])
def test_plain_http_is_refused(name: str, lab: Lab) -> None:
    asked = f"curl -sS --max-time 20 -o /dev/null -w '%{{http_code}}' http://{address(lab, name)}:5000/health"
    assert lab.shell("pibot-master", asked, check=False) in ("000", "400")


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_refuses_a_client_without_a_certificate(name: str, lab: Lab) -> None:
    assert curl(lab, name, MASTERS_OWN) == "200"
    assert curl(lab, name, "--cacert ~/pibot/tls/ca.crt").endswith("000")
    assert curl(lab, name, "--insecure").endswith("000")


def test_a_worker_refuses_the_certificate_of_another_worker(lab: Lab, on: Callable[[str], Host]) -> None:
    folder = lab.state / "secrets" / "tls"
    other = (folder / "worker-2.crt").read_text() + (folder / "worker-2.key").read_text()
    lab.shell("pibot-master", "umask 077 && cat >/tmp/other.pem", other)
    try:
        shown = "--cacert ~/pibot/tls/ca.crt --cert /tmp/other.pem"
        assert curl(lab, "worker-1", shown)[-3:] in ("000", "403")
        assert curl(lab, "worker-2", shown) == "200"  # its own: a worker may ask itself for its health
    finally:
        lab.shell("pibot-master", "rm /tmp/other.pem")


def test_a_workers_token_is_refused_without_the_workers_certificate(lab: Lab) -> None:
    token = f"-X POST -d '{{}}' -H 'Authorization: Bearer {lab.key_of('worker-1')}'"
    models = "/v1/chat/completions"
    assert curl(lab, "pibot-master", f"--cacert ~/pibot/tls/ca.crt {token}", models) in ("401", "403")
    shown = "--cacert ~/pibot-worker/tls/ca.crt --cert ~/pibot-worker/tls/host.crt --key ~/pibot-worker/tls/host.key"
    url = f"https://{address(lab, 'pibot-master')}:5000{models}"
    asked = f"curl -sS -o /dev/null -w '%{{http_code}}' {shown} {token} {url}"
    assert lab.shell("worker-1", asked) == "400"  # the certificate is accepted, the empty body is not


def test_a_job_runs_end_to_end_over_https(lab: Lab) -> None:
    assert "total" in lab.shell("pibot-master", "pibot run 'List files in home directory' 2>&1")
    status: Any = json.loads(lab.shell("pibot-master", "pibot status --json"))
    assert {worker["url"].partition(":")[0] for worker in status["workers"]} == {"https"}


def test_the_next_run_renews_a_certificate_that_ends_soon_and_the_master_serves_it(lab: Lab) -> None:
    at = (address(lab, "pibot-master"), 5000)
    before = ssl.get_server_certificate(at)
    # More days than a new one is valid for, so every certificate counts as ending soon.
    lab.playbook("site.yml", "--limit", "pibot-master", "-e", "pibot_tls_renew_days=900")
    assert ssl.get_server_certificate(at) != before
    assert ask(lab, trusting(lab), "/health")[0] == 200


def test_a_check_succeeds_where_a_host_has_no_key_yet(lab: Lab, tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    shutil.copytree(lab.state / "secrets", secrets)
    (secrets / "tls" / "worker-3.key").unlink()
    (secrets / "tls" / "worker-3.crt").unlink()
    lab.playbook("site.yml", "--check", "-e", f"pibot_secrets_dir={secrets}")
    assert not (secrets / "tls" / "worker-3.key").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_host_has_its_own_key_and_no_other(name: str, on: Callable[[str], Host]) -> None:
    listed = on(name).check_output(f"sudo stat -c '%n %U %a' {FOLDERS[name]}/tls {FOLDERS[name]}/tls/*")
    assert re.sub(rf"{FOLDERS[name]}/", "", listed).splitlines() == [
        "tls pi 700",
        "tls/ca.crt pi 644",
        "tls/host.crt pi 644",
        "tls/host.key pi 600",
    ]


def test_the_ca_and_the_keys_are_kept_for_the_owner_alone(lab: Lab) -> None:
    folder = lab.state / "secrets" / "tls"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in folder.glob("*.key")} == dict.fromkeys(
        ["ca.key", *(f"{name}.key" for name in FOLDERS)], 0o600
    )
