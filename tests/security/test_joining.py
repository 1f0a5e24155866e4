"""A worker whose token was taken registers an address that is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot.background import BackgroundLoop
from pibot.contracts import WorkerAddress
from pibot.contracts.proofs import JOIN_HEADER, NONCE_HEADER, PROOF_HEADER, new_random_id
from pibot.errors import InvalidRequest
from pibot.master_components.workers.pool import WorkerPool
from pibot.master_hub.addresses import CHECKS_PER_MINUTE, AddressChecks
from pibot.settings import Secret, Settings
from pibot.tool_registry import SkillLibrary
from pibot.worker.api import create_worker_app
from pibot.worker.joining import Joining
from pibot.worker.proofs import MAX_ANSWERS, AddressProofs
from pibot.worker_task_executor import TaskExecutor
from tests.security.recorder import Recorder
from tests.support.fleet import Fleet, fleet, settings_for
from tests.support.serving import Answer, ask, serving

KEY, TOKEN, OTHER = "fleet-key-0123456789", "token-of-worker-7-0123", "token-of-worker-8-0123"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Fleet]:
    tokens = {"worker-7": Secret(TOKEN), "worker-8": Secret(OTHER)}
    with fleet(tmp_path, workers=0, key=KEY, worker_tokens=tokens) as parts:
        yield parts


def register(hub: Fleet, url: str, token: str = TOKEN, join: str | None = None) -> Answer:
    worker_id = "worker-7" if token == TOKEN else "worker-8"
    headers = {JOIN_HEADER: join or new_random_id()}
    return ask(hub.port, "POST", "/workers", {"worker_id": worker_id, "url": url}, key=token, headers=headers)


def sent_to(hub: Fleet, service: Recorder) -> str:
    """Have the hub poll its workers and run a job, and return what reached the service."""
    job_id = hub.submit("the owner's words", timeout=30)
    hub.poll_workers()
    hub.poll_workers()
    hub.ask("POST", f"/task/{job_id}/cancel")
    return "".join(service.requests)


def test_a_service_that_is_no_worker_is_sent_neither_a_token_nor_a_job(
    hub: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Recorder() as service:
        service.pages["/status"] = ("200 OK", "{}")
        answer = register(hub, service.url)
        assert (answer.status, "did not show that it knows the token" in answer.json()["error"]) == (403, True)
        assert [line.split(" HTTP")[0] for line in service.requests] == ["GET /health"]
        got = sent_to(hub, service)
        assert TOKEN not in got
        assert "the owner's words" not in got

        monkeypatch.setattr(AddressChecks, "demand_proof", lambda *_: None)
        assert register(hub, service.url).status == 200
        got = sent_to(hub, service)
        assert TOKEN in got


def test_the_hub_itself_is_no_workers_address(hub: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.1", "localhost", "127.0.0.2", "[::ffff:127.0.0.1]", "127.1"):
        answer = register(hub, f"http://{host}:{hub.port}")
        assert (answer.status, "is the hub itself" in answer.json()["error"]) == (400, True), host
    owners = hub.ask("POST", "/workers", {"worker_id": "attic", "url": hub.url})
    assert (owners.status, hub.workers()) == (400, {})

    monkeypatch.setattr(AddressChecks, "refuse_impossible", lambda *_: None)
    assert hub.ask("POST", "/workers", {"worker_id": "attic", "url": hub.url}).status == 200


LOCAL = [
    "127.0.0.1",
    "127.8.8.8",
    "localhost",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "169.254.169.254",
    "[fe80::1]",
    "2130706433",
]


@pytest.mark.parametrize("host", LOCAL)
def test_an_address_that_only_the_hubs_machine_has_is_refused_from_elsewhere(host: str) -> None:
    loop = BackgroundLoop()
    checks = AddressChecks(WorkerPool([]), loop)
    address = WorkerAddress("worker-7", host.strip("[]"), 9)
    with pytest.raises(InvalidRequest, match="reaches the worker"):
        checks.refuse_impossible(address, "198.51.100.7", 5000)
    checks.refuse_impossible(address, "127.0.0.1", 5000)  # a worker on the hub's own machine
    checks.refuse_impossible(WorkerAddress("worker-7", "198.51.100.7", 5000), "198.51.100.7", 5000)
    loop.stop()


def test_a_name_is_no_address_for_a_workers_token(hub: Fleet) -> None:
    answer = register(hub, "http://somewhere.example:5000")
    assert (answer.status, answer.json()["field"]) == (400, "url")


class Worker:
    """A real worker's API that registers with a token."""

    def __init__(self, tmp_path: Path, hub: Fleet, token: str, worker_id: str) -> None:
        settings = settings_for(tmp_path, hub.llm, api_key=Secret(token), worker_id=worker_id, hub_url=hub.url)
        self.settings: Settings = settings
        self.proofs = AddressProofs(settings)
        self._loop = BackgroundLoop()
        executor = TaskExecutor(worker_id, lambda _: None, self._loop)  # type: ignore[arg-type,return-value]
        self.app = create_worker_app(executor, SkillLibrary(settings.skills_dir), settings, self.proofs)


def test_a_worker_shows_that_it_is_at_its_address_and_nobody_else_gets_a_proof(hub: Fleet, tmp_path: Path) -> None:
    worker = Worker(tmp_path, hub, TOKEN, "worker-7")
    with serving(worker.app) as port:
        joining = Joining(worker.settings, "127.0.0.1", port, worker.proofs)
        joining._join()
        assert joining._problem is None
        assert hub.workers()["worker-7"]["port"] == port

        assert not proven(port, new_random_id())
        with worker.proofs.registering() as join:
            assert not proven(port, new_random_id())
            assert [proven(port, join) for _ in range(MAX_ANSWERS + 1)] == [True] * MAX_ANSWERS + [False]
        assert not proven(port, join)


def proven(port: int, join: str) -> bool:
    """Ask a worker for a proof, as anyone may try to, and return whether there is one."""
    answer = ask(port, "GET", "/health", headers={JOIN_HEADER: join, NONCE_HEADER: new_random_id()})
    assert list(answer.json()) == ["status", "worker_id", "current_task"]
    return PROOF_HEADER in answer.headers


def test_another_workers_proof_is_worth_nothing(hub: Fleet, tmp_path: Path) -> None:
    worker = Worker(tmp_path, hub, OTHER, "worker-8")
    with serving(worker.app) as port, worker.proofs.registering() as join:
        assert register(hub, f"http://127.0.0.1:{port}", TOKEN, join).status == 403
        assert register(hub, f"http://127.0.0.1:{port}", OTHER, join).status == 200


def test_a_worker_of_an_earlier_release_is_told_to_update_and_one_of_the_inventory_needs_no_proof(hub: Fleet) -> None:
    body = {"worker_id": "worker-7", "url": "http://127.0.0.1:9"}
    refused = ask(hub.port, "POST", "/workers", body, key=TOKEN)
    assert (refused.status, "update it, or set its WORKER_n_IP" in refused.json()["error"]) == (403, True)
    hub.ask("POST", "/workers", body)  # the owner vouches for it
    assert ask(hub.port, "POST", "/workers", body, key=TOKEN).status == 200


def test_a_token_makes_the_hub_ask_few_addresses(hub: Fleet) -> None:
    with Recorder() as service:
        statuses = [register(hub, service.url).status for _ in range(CHECKS_PER_MINUTE + 2)]
        assert statuses == [403] * CHECKS_PER_MINUTE + [429] * 2
        assert len(service.requests) == CHECKS_PER_MINUTE
