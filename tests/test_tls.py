"""TLS between the machines of a fleet, over real sockets, with certificates made here."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, Response, request

from pibot.cli.hub_client import HubClient, HubError
from pibot.contracts import Caller, Scope, WorkerAddress
from pibot.errors import SettingsError, WorkerNotReached, WorkerUnreachable
from pibot.master_components.workers.client import WorkerClient, WorkerKeys
from pibot.settings import Secret, Settings
from pibot.tls import MASTER, PEER, client_tls, server_tls
from pibot.web import HANG_UP, ConnectionLimits, KeyRing, answer, create_app
from tests.support.certificates import Authority, Files
from tests.support.serving import serving

PATIENT = ConnectionLimits(head=60.0, idle=60.0)
TOKEN = "the-token-of-worker-1"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other_authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("other-ca"))


@pytest.fixture(scope="module")
def master(authority: Authority) -> Files:
    return authority.certify(MASTER)


@pytest.fixture(scope="module")
def worker_1(authority: Authority) -> Files:
    return authority.certify("worker-1")


@pytest.fixture(scope="module")
def worker_2(authority: Authority) -> Files:
    return authority.certify("worker-2")


def make_app() -> Flask:
    keys = KeyRing([(Secret(TOKEN), Caller("worker-1", Scope.WORKER, "worker-1"))])
    app = create_app(__name__, keys=keys, open_paths=("/health", "/large"), certified_workers=True)

    @app.get("/health")
    def health() -> Response:
        return answer({"peer": request.environ.get(PEER), "scheme": request.scheme})

    @app.get("/large")
    def large() -> Response:
        return Response(b"x" * 3_000_000)

    @app.get("/v1/models")
    def models() -> Response:
        return answer({})

    models.needs = Scope.WORKER  # type: ignore[attr-defined]
    return app


@pytest.fixture(scope="module")
def worker_port(worker_1: Files) -> Iterator[int]:
    """A server that admits the same clients as worker-1."""
    handshake = server_tls(worker_1.settings(), peers={MASTER, "worker-1"})
    with serving(make_app(), threads=2, handshake=handshake, limits=PATIENT) as port:
        yield port


@pytest.fixture(scope="module")
def hub_port(master: Files) -> Iterator[int]:
    """A server that admits the same clients as the hub."""
    with serving(make_app(), handshake=server_tls(master.settings(), peers=None), limits=PATIENT) as port:
        yield port


def get(port: int, context: ssl.SSLContext, path: str = "/health", key: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        return response.status, response.read()


REFUSED = (ssl.SSLError, ConnectionError, http.client.HTTPException)


# --- a worker ---


def test_a_worker_serves_the_master_and_itself(worker_port: int, master: Files, worker_1: Files) -> None:
    assert get(worker_port, master.context()) == (200, b'{"peer": "pibot-master", "scheme": "https"}\n')
    assert get(worker_port, worker_1.context()) == (200, b'{"peer": "worker-1", "scheme": "https"}\n')


def test_a_worker_refuses_a_client_without_a_certificate(worker_port: int, master: Files) -> None:
    with pytest.raises(REFUSED):
        get(worker_port, master.context(shown=False))


def test_a_worker_refuses_another_worker_and_logs_its_name(
    worker_1: Files, worker_2: Files, caplog: pytest.LogCaptureFixture
) -> None:
    handshake = server_tls(worker_1.settings(), peers={MASTER, "worker-1"})
    with serving(make_app(), handshake=handshake, limits=PATIENT) as port, pytest.raises(REFUSED):
        get(port, worker_2.context())
    assert "'worker-2' is not allowed to connect here" in caplog.text


def test_a_masters_name_among_a_certificates_addresses_does_not_count(worker_port: int, authority: Authority) -> None:
    with pytest.raises(REFUSED):
        get(worker_port, authority.certify("worker-3", MASTER, "127.0.0.1").context())


def test_a_worker_refuses_a_master_of_another_ca(worker_port: int, other_authority: Authority, worker_1: Files) -> None:
    context = worker_1.context(shown=False)
    false = other_authority.certify(MASTER)
    context.load_cert_chain(false.cert, false.key)
    with pytest.raises(REFUSED):
        get(worker_port, context)


def test_a_worker_refuses_an_expired_certificate_of_the_master(worker_port: int, authority: Authority) -> None:
    with pytest.raises(REFUSED):
        get(worker_port, authority.certify(MASTER, days=-1).context())


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
def test_silent_connections_do_not_block_others(worker_port: int, master: Files, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            silent = stack.enter_context(socket.create_connection(("127.0.0.1", worker_port), timeout=20))
            silent.sendall(sent)
        assert get(worker_port, master.context())[0] == 200


def test_a_handshake_that_takes_too_long_ends_the_connection(worker_1: Files) -> None:
    handshake = server_tls(worker_1.settings(), peers={MASTER})
    with serving(make_app(), handshake=handshake, limits=ConnectionLimits(head=0.1)) as port:  # noqa: SIM117
        with socket.create_connection(("127.0.0.1", port), timeout=20) as silent:
            silent.sendall(b"\x16\x03\x01")
            assert silent.recv(100) == b""


def test_plain_http_is_answered_400(worker_port: int) -> None:
    with socket.create_connection(("127.0.0.1", worker_port), timeout=20) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while part := plain.recv(1000):
            got += part
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"HTTPS only" in got


def test_refused_connections_are_logged_once_a_second_at_most(
    worker_1: Files, caplog: pytest.LogCaptureFixture
) -> None:
    now = [100.0]
    tls = server_tls(worker_1.settings(), peers={MASTER})
    assert tls is not None
    tls._clock = lambda: now[0]
    for _ in range(5):
        tls.log_refusal("192.168.10.9", "no certificate")
    now[0] += 1
    tls.log_refusal("192.168.10.9", "no certificate")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["tls_refused"] * 2
    assert "suppressed=4" in caplog.records[1].getMessage()


def test_old_tls_versions_and_compression_are_refused(worker_1: Files) -> None:
    tls = server_tls(worker_1.settings(), peers={MASTER})
    assert tls is not None
    client = client_tls(worker_1.settings())
    assert client is not None
    for context in (tls.context, client):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_2
        assert context.options & ssl.OP_NO_COMPRESSION
        assert all("ECDHE" in suite["name"] or suite["name"].startswith("TLS_") for suite in context.get_ciphers())


def test_a_large_answer_arrives_whole(worker_port: int, master: Files) -> None:
    assert len(get(worker_port, master.context(), "/large")[1]) == 3_000_000


def test_a_connection_serves_many_requests(worker_port: int, master: Files) -> None:
    connection = http.client.HTTPSConnection("127.0.0.1", worker_port, timeout=20, context=master.context())
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", "/health")
            assert connection.getresponse().read().startswith(b"{")


# --- the hub ---


def test_the_hub_serves_a_browser_without_a_certificate(hub_port: int, master: Files) -> None:
    assert get(hub_port, master.context(shown=False)) == (200, b'{"peer": null, "scheme": "https"}\n')


def test_a_workers_token_counts_only_with_its_own_certificate(
    hub_port: int, master: Files, worker_1: Files, worker_2: Files
) -> None:
    assert get(hub_port, worker_1.context(), "/v1/models", TOKEN)[0] == 200
    for context in (worker_1.context(shown=False), worker_2.context(), master.context()):
        status, body = get(hub_port, context, "/v1/models", TOKEN)
        assert (status, b"only together with the certificate of worker-1" in body) == (403, True)


def test_the_hub_learns_over_tls_too_that_a_client_hung_up(master: Files) -> None:
    begun, gone = threading.Event(), threading.Event()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        unwatch = environ[HANG_UP](gone.set)
        begun.set()
        gone.wait(20)
        unwatch()
        start_response("200 OK", [])
        return []

    with serving(app, handshake=server_tls(master.settings(), peers=None), limits=PATIENT) as port:
        context = master.context(shown=False)
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            assert begun.wait(20)
            assert not gone.is_set()
        assert gone.wait(20)


# --- clients ---


async def ask_worker(files: Files, port: int) -> int:
    client = WorkerClient(WorkerKeys(), client_tls(files.settings()))
    try:
        address = WorkerAddress("worker-1", "127.0.0.1", port, "https")
        return (await client.request(address, "GET", "/health"))[0]
    finally:
        await client.close()


async def test_the_pool_reaches_a_worker_over_tls(worker_port: int, master: Files) -> None:
    assert await ask_worker(master, worker_port) == 200


async def test_the_pool_rejects_a_worker_of_another_ca(worker_port: int, other_authority: Authority) -> None:
    with pytest.raises(WorkerNotReached, match=r"certificate is not accepted.*PIBOT_TLS_CA"):
        await ask_worker(other_authority.certify(MASTER), worker_port)


# Python 3.9's asyncio leaves the transport of a connection that was refused to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_pool_that_a_worker_refuses_gets_a_worker_error(worker_port: int, worker_2: Files) -> None:
    with pytest.raises(WorkerUnreachable):
        await ask_worker(worker_2, worker_port)


def status(port: int, host: str = "127.0.0.1", **settings: object) -> object:
    return HubClient(Settings(hub_url=f"https://{host}:{port}", **settings)).get("/health")  # type: ignore[arg-type]


def test_the_command_reaches_the_hub_with_the_ca_alone(hub_port: int, master: Files) -> None:
    assert status(hub_port, tls_ca=master.ca) == {"peer": None, "scheme": "https"}


def test_the_command_says_what_to_do_about_a_hub_certificate_that_it_can_not_verify(
    hub_port: int, master: Files
) -> None:
    with pytest.raises(HubError, match=r"can't be trusted.*set PIBOT_TLS_CA to the file of the fleet's CA"):
        status(hub_port)
    with pytest.raises(HubError, match=r"can't be trusted.*ask for a name or an address that is in it"):
        status(hub_port, host="localhost", tls_ca=master.ca)


def test_the_command_says_that_a_hubs_certificate_has_expired(authority: Authority) -> None:
    old = authority.certify(MASTER, days=-1)
    handshake = server_tls(old.settings(), peers=None)
    with serving(make_app(), handshake=handshake) as port, pytest.raises(HubError, match="expired; run the playbook"):
        status(port, tls_ca=old.ca)


# --- the settings ---


def test_with_a_ca_the_workers_addresses_are_https(tmp_path: Path) -> None:
    environ = {"WORKER_1_IP": "192.168.10.66", "PIBOT_TLS_CA": "tls/ca.crt"}
    settings = Settings.load(environ, tmp_path)
    assert settings.workers[0].url == "https://192.168.10.66:5000"
    assert settings.tls_ca == tmp_path / "tls" / "ca.crt"
    del environ["PIBOT_TLS_CA"]
    assert Settings.load(environ, tmp_path).workers[0].url == "http://192.168.10.66:5000"


def test_a_certificate_without_its_key_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="go together"):
        Settings.load({"PIBOT_TLS_CERT": "x.crt"}, tmp_path)


def test_unusable_files_are_clear_errors(tmp_path: Path, master: Files, worker_1: Files) -> None:
    with pytest.raises(SettingsError, match=r"PIBOT_TLS_CERT.*No such file"):
        server_tls(Settings(tls_cert=tmp_path / "no", tls_key=tmp_path / "no"), peers=None)
    with pytest.raises(SettingsError, match=r"PIBOT_TLS_CERT.*KEY_VALUES_MISMATCH|mismatch"):
        server_tls(Settings(tls_cert=master.cert, tls_key=worker_1.key), peers=None)
    with pytest.raises(SettingsError, match=r"PIBOT_TLS_CA.*can't be used"):
        client_tls(Settings(tls_ca=master.key))


@pytest.mark.parametrize(
    ("environ", "asks"),
    [
        ({"VOLC_BASE_URL": "https://10.0.0.1:5000/v1", "VOLC_API_KEY": "t", "PIBOT_API_KEY": "t"}, True),
        ({"VOLC_BASE_URL": "https://10.0.0.1:5000/v1", "PIBOT_HUB_URL": "https://10.0.0.1:5000"}, True),
        ({"VOLC_BASE_URL": "https://api.example.com/v1", "VOLC_API_KEY": "p", "PIBOT_API_KEY": "t"}, False),
        ({"VOLC_BASE_URL": "https://api.example.com/v1", "PIBOT_HUB_URL": "https://10.0.0.1:5000"}, False),
        ({"VOLC_BASE_URL": "https://api.example.com/v1"}, False),
    ],
)
def test_the_certificate_is_presented_to_the_hub_and_to_no_provider(
    environ: dict[str, str], asks: bool, tmp_path: Path
) -> None:
    assert Settings.load(environ, tmp_path).asks_hub_for_model is asks
