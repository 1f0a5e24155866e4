"""Hostile requests to the hub and to a worker, on the product's server."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from pibot.settings import Secret
from tests.support.fleet import Fleet, fleet, settings_for, worker
from tests.support.fleet import Gate as Unused
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import ask

KEY = "fleet-key-0123456789"
REFUSED = (401, 403, 429)
"""429 when the address has failed too often."""


@dataclass(frozen=True)
class Target:
    """A server with a key and the same one without, which answers what the key stops.

    Args:
        port: of the server with a key.
        open_port: of the server without.
        routes: all routes that require a key, with a value for each variable.
    """

    port: int
    open_port: int
    routes: tuple[tuple[str, str], ...]


HUB_ROUTES = (
    ("POST", "/task"),
    ("GET", "/task/x"),
    ("GET", "/task/x/result"),
    ("GET", "/task/x/export"),
    ("POST", "/task/x/cancel"),
    ("GET", "/tasks"),
    ("GET", "/workers"),
    ("POST", "/workers"),
    ("DELETE", "/workers/x"),
    ("POST", "/workers/x/drain"),
    ("GET", "/metrics"),
    ("GET", "/dashboard/data"),
    ("POST", "/dashboard/submit"),
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
)
WORKER_ROUTES = (
    ("POST", "/task"),
    ("GET", "/task/x/result"),
    ("POST", "/task/x/cancel"),
    ("GET", "/status"),
    ("GET", "/metrics"),
)


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("locked"), workers=0, key=KEY) as parts:
        yield parts


@pytest.fixture(scope="module")
def unlocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("unlocked"), workers=0) as parts:
        yield parts


@pytest.fixture(scope="module")
def targets(locked: Fleet, unlocked: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Target]]:
    path = tmp_path_factory.mktemp("workers")
    with contextlib.ExitStack() as parts:
        llm = parts.enter_context(ScriptedLLM())
        ports = [
            parts.enter_context(worker("worker-1", Unused(), settings_for(path, llm, api_key=key))).port
            for key in (Secret(KEY), None)
        ]
        yield {
            "hub": Target(locked.port, unlocked.port, HUB_ROUTES),
            "worker": Target(ports[0], ports[1], WORKER_ROUTES),
        }


@pytest.fixture(params=["hub", "worker"])
def target(request: pytest.FixtureRequest, targets: dict[str, Target]) -> Target:
    return targets[str(request.param)]


def raw(port: int, *parts: bytes) -> bytes:
    """Send exactly these bytes, and return everything until the server closes the connection."""
    got = b""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        with contextlib.suppress(OSError):  # the server may close the connection before it has read everything
            for part in parts:
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while chunk := connection.recv(65536):
                got += chunk
    return got


def request(line: str, *headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join([line, "Host: 127.0.0.1", *headers, "", ""]).encode("latin-1") + body


def statuses(answer: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3}) ", answer)]


def is_well(port: int) -> bool:
    return ask(port, "GET", "/health").status == 200


# --- keys ---

TOKENS = {
    "no key": (),
    "an empty key": ("Authorization: Bearer ",),
    "a wrong key": ("Authorization: Bearer wrong-key-0123456789",),
    "the beginning of the key": (f"Authorization: Bearer {KEY[:-1]}",),
    "the key and more": (f"Authorization: Bearer {KEY}x",),
    "the key in capitals": (f"Authorization: Bearer {KEY.upper()}",),
    "the key without its scheme": (f"Authorization: {KEY}",),
    "the key by another scheme": (f"Authorization: Digest {KEY}",),
    "the key in another header": (f"X-Api-Key: {KEY}",),
    "the key in a cookie": (f"Cookie: key={KEY}; Authorization=Bearer {KEY}",),
    "a wrong key before the right one": ("Authorization: Bearer wrong", f"Authorization: Bearer {KEY}"),
    "a wrong key behind the right one": (f"Authorization: Bearer {KEY}", "Authorization: Bearer wrong"),
    "a key that is no ASCII": ("Authorization: Bearer schl\xfcssel-\xff\xfe",),
    "a key with a NUL": (f"Authorization: Bearer {KEY}\0",),
    "a proxys word for it": ("X-Forwarded-For: 127.0.0.1", "X-Forwarded-User: owner", "X-Real-Ip: 127.0.0.1"),
    "another method by a header": ("X-HTTP-Method-Override: GET",),
}


@pytest.mark.parametrize("headers", TOKENS.values(), ids=list(TOKENS))
def test_nothing_is_answered_to_a_caller_with(headers: tuple[str, ...], target: Target) -> None:
    for method, path in target.routes:
        asked = request(f"{method} {path} HTTP/1.1", *headers, "Content-Length: 2", "Connection: close", body=b"{}")
        (status,) = statuses(raw(target.port, asked))
        assert status in (*REFUSED, 400)
    assert is_well(target.port)
    # Without a key on the server the request is answered, unless it is malformed.
    sent = request("GET /metrics HTTP/1.1", *headers, "Connection: close")
    assert statuses(raw(target.open_port, sent)) in ([200], [400])


def test_a_key_in_the_address_or_the_body_is_not_accepted(target: Target) -> None:
    for path in (f"/metrics?key={KEY}&access_token={KEY}", f"/metrics#{KEY}"):
        assert statuses(raw(target.port, request(f"GET {path} HTTP/1.1", "Connection: close")))[0] in (*REFUSED, 400)
    body = json.dumps({"description": "x", "key": KEY, "api_key": KEY, "skills": [], "task_id": "k"})
    assert ask(target.port, "POST", "/task", body.encode()).status in REFUSED


def test_a_key_of_a_megabyte_is_refused_before_it_is_read_in_full(target: Target) -> None:
    sent = request("GET /metrics HTTP/1.1", "Authorization: Bearer " + "x" * 1_000_000)
    assert statuses(raw(target.port, sent)) in ([413], [431], [400], [])
    assert is_well(target.port)


# --- the form of a request ---


def test_a_body_beyond_the_limit_is_refused_and_one_below_it_is_read(
    target: Target, targets: dict[str, Target]
) -> None:
    limit = 8 << 20 if target is targets["hub"] else 1 << 20
    body = b'{"description": "' + b"x" * limit + b'"}'
    assert ask(target.open_port, "POST", "/task", body).status == 413
    assert ask(target.open_port, "POST", "/task", body[:1000]).status == 400  # it was read, and is not JSON
    assert is_well(target.open_port)


def test_an_endless_number_is_refused_before_it_is_parsed(target: Target) -> None:
    # Python before 3.9.14 takes a minute for a million digits; later ones refuse more than 4,300 by themselves.
    body = b'{"task_id": "t", "skills": [], "description": "", "more": ' + b"9" * 2000 + b"}"
    refused = ask(target.open_port, "POST", "/task", body)
    assert (refused.status, "a number has 2000 digits, 1000 are allowed" in refused.json()["error"]) == (400, True)
    assert json.loads(body)["more"] > 0  # without the limit


SMUGGLED = request("GET /smuggled HTTP/1.1", "X: " + "x" * 20, "Connection: close")

SMUGGLING = {
    "two lengths": ("Content-Length: 20", "Content-Length: 0"),
    "two lengths the other way round": ("Content-Length: 0", "Content-Length: 20"),
    "two lengths in one line": ("Content-Length: 20, 0",),
    "two equal lengths in one line": ("Content-Length: 0, 0",),
    "a length with a sign": ("Content-Length: +0",),
    "a negative length": ("Content-Length: -1",),
    "a length in hexadecimal": ("Content-Length: 0x0",),
    "a length that goes on in another line": ("Content-Length: 2\r\n 0",),
    "a length and chunks": ("Content-Length: 0", "Transfer-Encoding: chunked"),
    "chunks and a length": ("Transfer-Encoding: chunked", "Content-Length: 0"),
    "chunks twice": ("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
    "chunks by another name": ("Transfer-Encoding: xchunked",),
    "chunks with a space before the colon": ("Transfer-Encoding : chunked",),
    "chunks behind a tab": ("Transfer-Encoding:\tchunked",),
    "a length under a name with an underline": ("Content_Length: 0", "Content-Length: 20"),
}


@pytest.mark.parametrize("headers", SMUGGLING.values(), ids=list(SMUGGLING))
def test_no_second_request_is_smuggled_in_by(headers: tuple[str, ...], target: Target) -> None:
    answer = raw(target.open_port, request("POST /nowhere HTTP/1.1", *headers, body=SMUGGLED))
    assert b"/smuggled" not in answer
    assert all(400 <= status <= 501 for status in statuses(answer))
    assert is_well(target.open_port)
    honest = raw(target.open_port, request("POST /nowhere HTTP/1.1", "Content-Length: 0", body=SMUGGLED))
    assert b"there is nothing at /smuggled" in honest  # with one length, the second request is a request of its own


MALFORMED = {
    "nothing": b"",
    "line ends only": b"\r\n\r\n\r\n",
    "no version": b"GET /health\r\n\r\n",
    "a version that there is not": b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n",
    "no protocol": b"GET /health SMTP\r\n\r\n",
    "an unknown method": b"HACK /task HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a method of 10 kB": b"G" * 10_000 + b" / HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address of 100 kB": b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a NUL in the address": b"GET /\0 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a fragment in the address": b"GET /#x HTTP/1.1\r\nHost: x\r\n\r\n",
    "an address that is no UTF-8": b"GET /%ff%fe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "a header without a colon": b"GET /nowhere HTTP/1.1\r\nHost\r\n\r\n",
    "a header of 100 kB": b"GET /health HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    "ten thousand headers": b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
    "a tunnel": b"CONNECT 192.168.10.66:5000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "another hosts address": b"GET http://192.168.10.66:5000/task HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "the beginning of TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "the beginning of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "noise": bytes(range(256)) * 10 + b"\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=list(MALFORMED))
def test_a_malformed_request_breaks_nothing(sent: bytes, target: Target) -> None:
    answer = raw(target.open_port, sent)
    assert all(400 <= status < 506 and status != 500 for status in statuses(answer)), answer
    assert is_well(target.open_port)


# --- paths and names in a request ---

TRAVERSAL = [
    "/../../.env",
    "/dashboard/../../../.env",
    "/static/../../../../pyproject.toml",
    "/dashboard/static/..%2f..%2f..%2f..%2fpyproject.toml",
    "/dashboard/static/%2e%2e/%2e%2e/app.py",
    "/dashboard/static/....//....//app.py",
    "/dashboard/static/..\\..\\app.py",
    "/dashboard/static//etc/passwd",
    "/dashboard/dashboard.css/../../app.py",
    "/task/..%2f..%2f.env/result",
    "/task/%2e%2e/result",
    "//etc/passwd",
]


@pytest.mark.parametrize("path", TRAVERSAL)
def test_no_file_is_served_through_a_path_that_leads_up(path: str, target: Target) -> None:
    answer = raw(target.open_port, request(f"GET {path} HTTP/1.1", "Connection: close"))
    assert statuses(answer)[0] in (308, 400, 404)
    assert not re.search(rb"root:|hatchling|create_hub_app", answer)


INJECTED = "x\r\nSet-Cookie: session=evil\r\n\r\n<script>alert(1)</script>"


@pytest.mark.parametrize("path", ["/task/{}", "/task/{}/result", "/task/{}/cancel", "/{}", "/tasks?status={}"])
def test_a_name_with_line_ends_adds_no_header_and_no_page(path: str, target: Target) -> None:
    escaped = INJECTED.replace("\r", "%0d").replace("\n", "%0a").replace(" ", "%20")
    answer = raw(target.open_port, request(f"GET {path.format(escaped)} HTTP/1.1", "Connection: close"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Set-Cookie: session=evil" not in head.replace(b"%20", b" ").split(b"\r\n")
    assert b"Content-Type: application/json" in head or b"<script>alert" not in body
    json_body = {"task_id": INJECTED, "description": "x", "skills": [], "job_id": INJECTED}
    refused = ask(target.open_port, "POST", "/task", json_body)
    assert refused.status == 400
    assert "Set-Cookie" not in refused.headers


@pytest.mark.parametrize(
    "name", ["../../evil", "..", ".", "/etc", "a/b", "a\0b", "-rf", "", "x" * 101, "ä", None, 7, {}]
)
def test_a_task_whose_name_would_lead_out_of_the_workspaces_is_refused(name: object, target: Target) -> None:
    body = {"task_id": name, "job_id": name, "description": "x", "skills": []}
    if name is None:
        del body["job_id"]  # the hub makes an id then
        if target.routes is HUB_ROUTES:
            return
    assert ask(target.open_port, "POST", "/task", body).status == 400


# --- through a browser ---

FOREIGN = {
    "another sites page": ("Sec-Fetch-Site: cross-site", "Origin: https://evil.example"),
    "a page of a neighbour": ("Sec-Fetch-Site: same-site",),
    "a page in a sandbox": ("Origin: null",),
    "an old browser": ("Origin: http://evil.example",),
    "a page on another port": ("Origin: http://127.0.0.1:1",),
    "a form as text": ("Origin: http://evil.example", "Content-Type: text/plain"),
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=list(FOREIGN))
def test_a_browser_changes_nothing_for(headers: tuple[str, ...], target: Target) -> None:
    path = "/task/none-such/cancel"
    length = ("Content-Length: 0", "Connection: close")
    assert statuses(raw(target.open_port, request(f"POST {path} HTTP/1.1", *headers, *length))) == [403]
    assert statuses(raw(target.open_port, request(f"POST {path} HTTP/1.1", *length))) == [404]  # without the control


OWN = socket.gethostname().partition(".")[0]
REBOUND = [
    "evil.example",
    "127.0.0.1.evil.example",
    "evil.example:5000",
    "localhost.evil.example",
    "evil.local",
    "evil.localhost",
    "evil.lan",
    "evil.home",
    "evil.internal",
    "evil.home.arpa",
    "evil",
    "localhost.",
    f"{OWN}.evil.local",
    f"{OWN}.evil",
    f"x{OWN}",
    "127.0.0.1.1",
    "[::1",
    "[evil]",
    "127.0.0.1@evil.local",
]
ANSWERED = ["127.0.0.1", "192.168.10.113:5000", "[::1]:5000", "[fd00::1]", "localhost", "LOCALHOST:5000"]
ANSWERED += [OWN, OWN.upper(), f"{OWN}.local:5000", f"{OWN}.lan"]


@pytest.mark.parametrize("host", REBOUND)
def test_a_request_for_a_name_that_somebody_pointed_here_is_not_answered(host: str, target: Target) -> None:
    sent = b"GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
    assert statuses(raw(target.open_port, sent % host.encode()))[0] in (400, 403)
    assert statuses(raw(target.open_port, sent % b"127.0.0.1")) == [200]


@pytest.mark.parametrize("host", ANSWERED)
def test_a_request_for_the_machine_by_its_address_or_its_own_name_is_answered(host: str, target: Target) -> None:
    sent = b"GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
    assert statuses(raw(target.open_port, sent % host.encode())) == [200]


def test_no_page_submits_a_job_through_a_name_that_it_pointed_here(unlocked: Fleet) -> None:
    body = json.dumps({"description": "x", "skills": []}).encode()

    def submit(host: str) -> bytes:
        browser = (f"Host: {host}", f"Origin: http://{host}", "Sec-Fetch-Site: same-origin", "Connection: close")
        head = "\r\n".join(("POST /task HTTP/1.1", *browser, f"Content-Length: {len(body)}", "", ""))
        return raw(unlocked.port, head.encode() + body)

    refused = submit(f"evil.lan:{unlocked.port}")
    assert statuses(refused) == [403]
    assert b"only IP addresses, localhost and this machine's own name are answered" in refused
    assert statuses(submit(f"127.0.0.1:{unlocked.port}")) == [202]  # the same page, if it had our origin
