"""Each key's scope, over the hub's real API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pibot.contracts import Scope
from pibot.errors import SettingsError
from pibot.master_components.workers.client import WorkerKeys
from pibot.master_hub import HubService, create_hub_app
from pibot.settings import AccessKey, Secret, Settings
from pibot.web.keys import KeyRing, needed
from tests.support.fleet import Fleet, fleet, settings_for, worker
from tests.support.fleet import Gate as Unused
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import ask

OWNER, READER, SENDER, TOKEN = (
    "owner-key-0123456789",
    "reader-key-0123456789",
    "sender-key-0123456789",
    "token-0123456789",
)
KEYS = (AccessKey("wall", Scope.READ, Secret(READER)), AccessKey("phone", Scope.SUBMIT, Secret(SENDER)))
ATTIC = {"worker_id": "attic", "url": "http://127.0.0.1:9"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    path = tmp_path_factory.mktemp("access")
    with fleet(path, workers=0, key=OWNER, keys=KEYS, worker_tokens={"attic": Secret(TOKEN)}) as parts:
        yield parts


def asked(parts: Fleet, key: str, method: str, path: str, body: object = None) -> int:
    return ask(parts.port, method, path, body, key=key).status


READS = ["/tasks", "/workers", "/metrics", "/dashboard", "/dashboard/data"]


@pytest.mark.parametrize("path", READS)
def test_a_key_with_scope_read_sees_everything_and_a_workers_token_nothing(parts: Fleet, path: str) -> None:
    assert [asked(parts, key, "GET", path) for key in (OWNER, SENDER, READER, TOKEN)] == [200, 200, 200, 403]


def test_only_a_key_with_scope_submit_submits_and_cancels_jobs(parts: Fleet) -> None:
    body = {"description": "wait for a worker", "skills": [], "job_id": "mine"}
    assert [asked(parts, key, "POST", "/task", body) for key in (READER, TOKEN)] == [403, 403]
    assert asked(parts, OWNER, "GET", "/task/mine") == 404
    assert asked(parts, SENDER, "POST", "/task", body) == 202
    assert [asked(parts, key, "POST", "/task/mine/cancel") for key in (READER, TOKEN)] == [403, 403]
    assert asked(parts, SENDER, "POST", "/task/mine/cancel") == 200


def test_a_refusal_names_the_missing_scope(parts: Fleet) -> None:
    refused = ask(parts.port, "POST", "/task", {"description": "x"}, key=READER)
    assert "submit" in refused.json()["error"]
    assert "wall" in refused.json()["error"]


def test_a_workers_token_speaks_for_that_worker_alone(parts: Fleet) -> None:
    assert asked(parts, TOKEN, "POST", "/workers", {**ATTIC, "worker_id": "cellar"}) == 403
    assert asked(parts, SENDER, "POST", "/workers", ATTIC) == 403
    assert asked(parts, TOKEN, "POST", "/workers", ATTIC) == 403  # nothing there shows that it knows the token
    assert asked(parts, OWNER, "POST", "/workers", ATTIC) == 200
    assert asked(parts, TOKEN, "POST", "/workers", ATTIC) == 200
    assert asked(parts, OWNER, "POST", "/workers", {**ATTIC, "worker_id": "cellar"}) == 200
    assert asked(parts, TOKEN, "DELETE", "/workers/cellar") == 403
    assert [asked(parts, key, "POST", "/workers/attic/drain") for key in (TOKEN, SENDER, READER)] == [403] * 3
    assert asked(parts, OWNER, "DELETE", "/workers/cellar") == 200
    assert asked(parts, TOKEN, "DELETE", "/workers/attic") == 200


def test_the_model_is_for_workers_and_the_owner(parts: Fleet) -> None:
    call = {"messages": [{"role": "user", "content": "hello"}]}
    assert [asked(parts, key, "POST", "/v1/chat/completions", call) for key in (READER, SENDER)] == [403, 403]
    assert [asked(parts, key, "POST", "/v1/chat/completions", {}) for key in (TOKEN, OWNER)] == [400, 400]


def test_each_worker_is_sent_its_own_token(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        its = settings_for(tmp_path, llm, api_key=Secret(TOKEN))
        with (
            worker("worker-1", Unused(), its) as address,
            fleet(
                tmp_path, workers=0, more_workers=[address], key=OWNER, worker_tokens={"worker-1": Secret(TOKEN)}
            ) as parts,
        ):
            assert parts.result(parts.submit("say it"))["output"] == "did: say it"
            assert asked_worker(address.port, OWNER) == 401


def test_while_keys_are_changed_the_previous_ones_are_accepted_too(tmp_path: Path) -> None:
    old, new = Secret("old-" + TOKEN), Secret("new-" + TOKEN)
    with ScriptedLLM() as llm:
        its = settings_for(tmp_path, llm, api_key=old)
        changes = {"worker_tokens": {"worker-1": new}, "previous_worker_tokens": {"worker-1": old}}
        with (
            worker("worker-1", Unused(), its) as address,
            fleet(
                tmp_path,
                workers=0,
                more_workers=[address],
                key=OWNER,
                previous_api_key=Secret("old-" + OWNER),
                **changes,
            ) as parts,
        ):
            assert parts.result(parts.submit("say it"))["output"] == "did: say it"
            assert asked(parts, "old-" + OWNER, "GET", "/tasks") == 200
            assert [asked(parts, key.reveal(), "POST", "/v1/chat/completions", {}) for key in (old, new)] == [400, 400]


def test_a_worker_is_sent_the_key_that_it_accepted_last() -> None:
    old, new = Secret("old"), Secret("new")
    keys = WorkerKeys(Secret("fleet"), {"worker-1": new}, {"worker-1": old})
    assert keys.of_worker("worker-1") == new
    assert keys.switch("worker-1", refused=new)
    assert keys.switch("worker-1", refused=new)  # of a request that was in flight
    assert keys.of_worker("worker-1") == old
    assert not keys.switch("worker-2", refused=Secret("fleet"))


def asked_worker(port: int, key: str) -> int:
    return ask(port, "GET", "/status", key=key).status


def test_a_workers_token_registers_and_leaves_only_so_often_and_keeps_no_other_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pibot.master_hub.api.JOINS_PER_MINUTE", 2)
    tokens = {"attic": Secret(TOKEN), "cellar": Secret("token-of-the-cellar")}
    with fleet(tmp_path, workers=0, key=OWNER, worker_tokens=tokens) as parts:
        assert asked(parts, OWNER, "POST", "/workers", ATTIC) == 200
        assert asked(parts, TOKEN, "POST", "/workers", ATTIC) == 200
        assert asked(parts, TOKEN, "DELETE", "/workers/attic") == 200
        refused = ask(parts.port, "POST", "/workers", ATTIC, key=TOKEN)
        cellar = {**ATTIC, "worker_id": "cellar"}
        assert asked(parts, "token-of-the-cellar", "POST", "/workers", cellar) == 403  # its address is not proven
        assert asked(parts, OWNER, "POST", "/workers", ATTIC) == 200
    assert refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    assert "more than 2 workers registered" in refused.json()["error"]


def test_every_route_declares_its_scope(tmp_path: Path) -> None:
    with ScriptedLLM() as llm:
        settings = settings_for(tmp_path, llm, api_key=Secret(OWNER))
        service = HubService(settings)
        app = create_hub_app(service, settings)
        service.close()
    asks = {
        (method, rule.rule): needed(app.view_functions[rule.endpoint], method)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert {route for route, scope in asks.items() if scope is Scope.WORKER} == {
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("POST", "/workers"),
        ("DELETE", "/workers/<worker_id>"),
    }
    assert {route for route, scope in asks.items() if scope is Scope.SUBMIT} == {
        ("POST", "/task"),
        ("POST", "/task/<job_id>/cancel"),
        ("POST", "/dashboard/submit"),
        ("POST", "/dashboard/cancel"),
    }
    assert {route for route, scope in asks.items() if scope is Scope.READ and route[0] != "GET"} == {
        ("POST", "/logout")
    }


def test_without_the_fleets_key_no_key_is_required() -> None:
    assert KeyRing.of_hub(Settings()) is None
    assert KeyRing.of_worker(Settings(keys=KEYS)) is None


def test_peoples_keys_without_the_fleets_key_are_refused() -> None:
    with pytest.raises(SettingsError, match="PIBOT_KEY_WALL is set without PIBOT_API_KEY"):
        KeyRing.of_hub(Settings(keys=KEYS, allow_open=True))


def test_two_callers_may_not_have_the_same_key() -> None:
    both = (AccessKey("wall", Scope.READ, Secret(READER)), AccessKey("boss", Scope.ADMIN, Secret(READER)))
    with pytest.raises(SettingsError, match="wall and boss have the same key"):
        KeyRing.of_hub(Settings(api_key=Secret(OWNER), keys=both))
    same = Settings(api_key=Secret(OWNER), previous_api_key=Secret(OWNER), worker_tokens={"worker-1": Secret(OWNER)})
    with pytest.raises(SettingsError, match="owner and worker-1"):
        KeyRing.of_hub(same)


@pytest.mark.parametrize("shown", [b"", b"owner", b"\xff\xfe", OWNER.encode() + b"\0", b"x" * 1_000_000])
def test_an_unknown_key_has_no_caller(shown: bytes) -> None:
    ring = KeyRing.of_hub(Settings(api_key=Secret(OWNER), keys=KEYS))
    assert ring is not None
    assert ring.find(shown) is None
    assert ring.find(READER.encode()) is not None
