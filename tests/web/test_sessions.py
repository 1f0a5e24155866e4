from __future__ import annotations

import json
import logging
import os
import stat
from pathlib import Path

import pytest

from pibot.contracts import Caller, Scope
from pibot.settings import Secret
from pibot.web import LIFETIME, KeyRing, Sessions
from pibot.web.sessions import MAX_SESSIONS
from tests.support.clocks import FakeClock

KEY = b"schl\xc3\xbcssel-7f3a"
OWNER = Caller("owner", Scope.ADMIN)
WORKER = Caller("worker-1", Scope.WORKER, "worker-1")


def ring(key: bytes = KEY, caller: Caller = OWNER) -> KeyRing:
    return KeyRing([(Secret(key.decode()), caller), (Secret("token"), WORKER)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.json"


def test_a_session_has_the_caller_of_its_key_until_it_expires() -> None:
    clock = FakeClock()
    sessions = Sessions(ring(), now=clock)
    session = sessions.begin(KEY)
    assert session is not None
    assert sessions.find(session.session_id) == session
    assert session.caller == OWNER
    clock.now += LIFETIME - 1
    assert sessions.find(session.session_id) is not None
    clock.now += 1
    assert sessions.find(session.session_id) is None


@pytest.mark.parametrize("key", [b"", b"wrong", b"token", b"\xff"])
def test_only_a_persons_key_begins_a_session(key: bytes) -> None:
    assert Sessions(ring()).begin(key) is None


@pytest.mark.parametrize("session_id", ["", "x", "ü", "\udcff", "x" * 100_000])
def test_an_unknown_session_id_finds_nothing(session_id: str) -> None:
    sessions = Sessions(ring())
    sessions.begin(KEY)
    assert sessions.find(session_id) is None


def test_each_log_in_is_a_session_of_its_own_with_a_token_of_its_own() -> None:
    sessions = Sessions(ring())
    first, second = sessions.begin(KEY), sessions.begin(KEY)
    assert first is not None
    assert second is not None
    assert first.session_id != second.session_id
    assert first.form_token != second.form_token
    sessions.end(first)
    assert sessions.find(first.session_id) is None
    assert sessions.find(second.session_id) is not None


def test_a_restart_neither_ends_a_session_nor_restores_an_ended_one(path: Path) -> None:
    sessions = Sessions(ring(), path)
    stays, ended = sessions.begin(KEY), sessions.begin(KEY)
    assert stays is not None
    assert ended is not None
    sessions.end(ended)
    again = Sessions(ring(), path)
    assert again.find(stays.session_id) == stays
    assert again.find(ended.session_id) is None


def test_a_session_ends_with_its_key_and_follows_its_scope(path: Path) -> None:
    session = Sessions(ring(), path).begin(KEY)
    assert session is not None
    assert Sessions(ring(b"another"), path).find(session.session_id) is None
    reader = Caller("owner", Scope.READ)
    found = Sessions(ring(caller=reader), path).find(session.session_id)
    assert found is not None
    assert found.caller == reader


def test_the_file_holds_neither_cookies_nor_keys(path: Path) -> None:
    session = Sessions(ring(), path).begin(KEY)
    assert session is not None
    text = path.read_text("utf-8")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert session.session_id not in text
    assert session.form_token not in text
    assert KEY.decode() not in text
    assert Sessions(ring(), path).find(next(iter(json.loads(text)))) is None
    assert session.session_id not in repr(session)


def test_too_many_log_ins_end_the_oldest_session(path: Path) -> None:
    sessions = Sessions(ring(), path)
    first = sessions.begin(KEY)
    assert first is not None
    for _ in range(MAX_SESSIONS):
        sessions.begin(KEY)
    assert sessions.find(first.session_id) is None
    assert len(json.loads(path.read_text("utf-8"))) == MAX_SESSIONS


def test_one_key_ends_no_session_of_another(path: Path) -> None:
    reader = Caller("wall", Scope.READ)
    keys = KeyRing(
        [(Secret(KEY.decode()), OWNER), (Secret("reader"), reader), (Secret("twin"), Caller("wall", Scope.ADMIN))]
    )
    sessions = Sessions(keys, path)
    owners, twins, readers = sessions.begin(KEY), sessions.begin(b"twin"), sessions.begin(b"reader")
    assert owners is not None
    assert twins is not None
    assert readers is not None
    for _ in range(MAX_SESSIONS):
        sessions.begin(b"reader")
    sessions = Sessions(keys, path)
    assert sessions.find(owners.session_id) is not None
    assert sessions.find(twins.session_id) is not None
    assert sessions.find(readers.session_id) is None
    assert len(json.loads(path.read_text("utf-8"))) == MAX_SESSIONS + 2


def test_sessions_of_an_earlier_release_go_on(path: Path) -> None:
    session = Sessions(ring(), path).begin(KEY)
    assert session is not None
    rows = {name: row[:2] for name, row in json.loads(path.read_text("utf-8")).items()}
    path.write_text(json.dumps(rows), "utf-8")
    sessions = Sessions(ring(), path)
    sessions.begin(KEY)
    assert Sessions(ring(), path).find(session.session_id) == session


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": ["ü", "x"]}', "\0"])
def test_a_damaged_file_ends_the_sessions_and_does_no_other_harm(
    path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(text, "utf-8")
    with caplog.at_level(logging.WARNING):
        sessions = Sessions(ring(), path)
    assert "sessions_not_read" in caplog.text
    session = sessions.begin(KEY)
    assert session is not None
    assert sessions.find(session.session_id) == session


def test_a_session_stays_ended_after_a_restart_even_if_the_log_out_could_not_be_written(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sessions = Sessions(ring(), path)
    session = sessions.begin(KEY)
    assert session is not None
    path.with_suffix(".new").mkdir()  # so that nothing can be written there
    sessions.end(session)
    assert "sessions_not_kept" in caplog.text
    assert sessions.find(session.session_id) is None
    assert Sessions(ring(), path).find(session.session_id) is None


def test_a_log_out_survives_a_power_cut(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the new file and its name are on the disk when the log-out returns."""
    sessions = Sessions(ring(), path)
    session = sessions.begin(KEY)
    assert session is not None
    synced: list[bool] = []
    monkeypatch.setattr("pibot.disk.os.fsync", lambda n: synced.append(stat.S_ISDIR(os.fstat(n).st_mode)))
    sessions.end(session)
    assert synced == [False, True]
