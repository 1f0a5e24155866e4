from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pibot.contracts import Scope
from pibot.errors import SettingsError
from pibot.settings import Price, Secret, Settings


def load(tmp_path: Path, dotenv: str = "", **environ: str) -> Settings:
    (tmp_path / ".env").write_text(dotenv, "utf-8")
    return Settings.load(environ, tmp_path)


def test_the_guides_dotenv_is_read_with_its_inline_comment(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "VOLC_API_KEY=abc\n"
        "VOLC_BASE_URL=https://ark.cn-beijing.volces.com/api/coding/v3\n"
        "MODEL_NAME=doubao-seed-code\n"
        "WORKER_ID=worker-2  # Change to worker-2, worker-3 on other Workers\n",
    )
    assert settings.llm.api_key == Secret("abc")
    assert settings.llm.model == "doubao-seed-code"
    assert settings.worker_id == "worker-2"


def test_the_environment_wins_over_dotenv(tmp_path: Path) -> None:
    assert load(tmp_path, "WORKER_ID=from-file\n", WORKER_ID="from-env").worker_id == "from-env"


def test_a_dollar_in_a_key_is_kept_as_it_is(tmp_path: Path) -> None:
    settings = load(tmp_path, "PIBOT_API_KEY=a${HOME}b\n")
    assert settings.api_key is not None
    assert settings.api_key.reveal() == "a${HOME}b"


def test_openai_names_are_read_where_the_volc_ones_are_absent(tmp_path: Path) -> None:
    settings = load(tmp_path, OPENAI_API_KEY="o", OPENAI_BASE_URL="http://127.0.0.1:9/v1/", MODEL_NAME="m")
    assert settings.llm.api_key == Secret("o")
    assert settings.llm.base_url == "http://127.0.0.1:9/v1"
    assert settings.llm.model == "m"


def test_volc_names_win_over_openai_ones(tmp_path: Path) -> None:
    settings = load(tmp_path, VOLC_API_KEY="v", OPENAI_API_KEY="o", OPENAI_BASE_URL="http://127.0.0.1:9/v1")
    assert settings.llm.api_key == Secret("v")


def test_workers_are_read_in_the_order_of_their_numbers_with_optional_ports(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        WORKER_10_IP="10.0.0.10",
        WORKER_1_IP="192.168.10.66",
        WORKER_2_IP="pi-two.local",
        WORKER_2_PORT="5002",
    )
    assert [(w.worker_id, w.host, w.port) for w in settings.workers] == [
        ("worker-1", "192.168.10.66", 5000),
        ("worker-2", "pi-two.local", 5002),
        ("worker-10", "10.0.0.10", 5000),
    ]


def test_an_ipv6_worker_gets_brackets_in_its_address(tmp_path: Path) -> None:
    assert load(tmp_path, WORKER_1_IP="fd00::1").workers[0].url == "http://[fd00::1]:5000"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_1_PORT", "70000"),
        ("WORKER_1_PORT", "http"),
        ("WORKER_1_IP", "http://192.168.10.66"),
        ("PIBOT_ALLOW_OPEN", "perhaps"),
        ("PIBOT_SANDBOX", "docker"),
        ("PIBOT_LLM_BACKEND", "curl"),
        ("PIBOT_TASK_TIMEOUT", "-1"),
        ("PIBOT_TASK_TIMEOUT", "inf"),
        ("PIBOT_TASK_TIMEOUT", "nan"),
        ("PIBOT_MAX_STEPS", "0"),
        ("PIBOT_MAX_STEPS", "²"),
        ("PIBOT_MAX_QUEUED", "0"),
        ("PIBOT_QUEUE_MB", "0"),
        ("PIBOT_JOBS_KEPT", "0"),
        ("PIBOT_JOBS_MB", "0.5"),
        ("PIBOT_JOBS_KEPT_DAYS", "a month"),
        ("PIBOT_READ_PATHS", "relative/path"),
        ("VOLC_BASE_URL", "ark.example"),
    ],
)
def test_a_wrong_value_is_refused_with_the_name_of_its_variable(tmp_path: Path, name: str, value: str) -> None:
    environ = {"WORKER_1_IP": "127.0.0.1", name: value}
    with pytest.raises(SettingsError, match=name):
        load(tmp_path, **environ)


def test_an_empty_value_counts_as_absent(tmp_path: Path) -> None:
    settings = load(tmp_path, "PIBOT_API_KEY=\nWORKER_1_IP=\nPIBOT_TASK_TIMEOUT=\n")
    assert settings.api_key is None
    assert settings.workers == ()
    assert settings.budget.max_seconds == 300


def test_a_dotenv_that_is_not_text_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xff\xfe\x00K=V")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        Settings.load({}, tmp_path)


def test_a_secret_never_shows_in_a_repr(tmp_path: Path) -> None:
    settings = load(tmp_path, VOLC_API_KEY="hunter2", PIBOT_API_KEY="hunter3")
    assert "hunter" not in repr(settings)
    assert "hunter" not in f"{settings.api_key}"


def test_without_a_key_a_process_listens_on_loopback_only(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.listen_host(None) == "127.0.0.1"
    assert settings.listen_host("::1") == "::1"
    with pytest.raises(SettingsError, match="PIBOT_API_KEY"):
        settings.listen_host("192.168.10.66")
    with pytest.raises(SettingsError, match="PIBOT_ALLOW_OPEN"):
        settings.listen_host("0.0.0.0")


def test_with_a_key_or_allow_open_a_process_listens_on_all_addresses(tmp_path: Path) -> None:
    assert load(tmp_path, PIBOT_API_KEY="k").listen_host(None) == "0.0.0.0"
    assert load(tmp_path, PIBOT_ALLOW_OPEN="1").listen_host(None) == "0.0.0.0"
    assert load(tmp_path, PIBOT_API_KEY="k").listen_host("127.0.0.1") == "127.0.0.1"


def test_skills_and_souls_in_the_working_directory_win_over_the_bundled_ones(tmp_path: Path) -> None:
    assert load(tmp_path).worker_soul.is_file()
    (tmp_path / "worker_soul.md").write_text("mine", "utf-8")
    (tmp_path / "skills").mkdir()
    settings = load(tmp_path)
    assert settings.worker_soul == tmp_path / "worker_soul.md"
    assert settings.skills_dir == tmp_path / "skills"


def test_the_masters_handling_of_its_workers_can_be_set() -> None:
    settings = Settings.load(
        {
            "PIBOT_LEASE_SECONDS": "30",
            "PIBOT_NO_WORKER_SECONDS": "600",
            "PIBOT_HOT_CELSIUS": "75",
            "PIBOT_MIN_MEMORY_MB": "100",
            "PIBOT_HUB_URL": "http://192.168.10.113:5000",
        }
    )
    assert (settings.lease_seconds, settings.no_worker_seconds) == (30.0, 600.0)
    assert (settings.hot_celsius, settings.min_memory_mb, settings.join_hub) == (75.0, 100, True)
    assert Settings.load({}).join_hub is False
    with pytest.raises(SettingsError, match="PIBOT_LEASE_SECONDS must be a number of seconds from 2 up"):
        Settings.load({"PIBOT_LEASE_SECONDS": "1"})
    with pytest.raises(SettingsError, match="PIBOT_HOT_CELSIUS must be a number of degrees above 0"):
        Settings.load({"PIBOT_HOT_CELSIUS": "warm"})


# --- keys beside the fleet's own ---


def test_further_keys_and_workers_tokens_are_read(tmp_path: Path) -> None:
    settings = load(tmp_path, PIBOT_KEY_PHONE="submit:abcdefgh12345678", WORKER_2_TOKEN="t" * 43, PIBOT_KEY_wall="")
    assert [(key.name, key.scope, key.secret.reveal()) for key in settings.keys] == [
        ("phone", Scope.SUBMIT, "abcdefgh12345678")
    ]
    assert settings.worker_tokens == {"worker-2": Secret("t" * 43)}
    assert "abcdefgh" not in repr(settings)
    assert "tttt" not in repr(settings)


@pytest.mark.parametrize(
    "value", ["abcdefgh12345678", "owner:abcdefgh12345678", "worker:abcdefgh12345678", "read:short"]
)
def test_a_wrong_further_key_is_named_but_not_shown(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="PIBOT_KEY_PHONE") as caught:
        load(tmp_path, PIBOT_KEY_PHONE=value)
    assert value.rpartition(":")[2] not in str(caught.value)


def test_a_token_short_enough_to_guess_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="WORKER_1_TOKEN must have at least 16"):
        load(tmp_path, WORKER_1_TOKEN="short")


def test_the_gateways_limits_are_read(tmp_path: Path) -> None:
    gateway = Settings.load(
        {
            "VOLC_API_KEY": "the-first-key",
            "VOLC_BASE_URL": "http://first/v1",
            "PIBOT_JOB_TOKENS": "1000",
            "PIBOT_DAY_TOKENS": "0",
            "PIBOT_GATEWAY_CALLS": "3",
            "PIBOT_FALLBACK_MODEL": "small",
            "PIBOT_PRICES": "doubao-seed-code=0.8/8, other = 1/2",
            "PIBOT_MODELS": "one, two",
        },
        tmp_path,
    ).gateway
    assert (gateway.job_tokens, gateway.day_tokens, gateway.calls) == (1000, None, 3)
    assert gateway.fallback is not None
    assert (gateway.fallback.model, gateway.fallback.base_url) == ("small", "http://first/v1")
    assert gateway.fallback.api_key == Secret("the-first-key")
    assert gateway.prices == {"doubao-seed-code": Price(0.8, 8), "other": Price(1, 2)}
    assert gateway.models_beside("first") == {"first", "small", "one", "two"}
    assert replace(gateway, models=()).models_beside("first") == {"first", "small", "doubao-seed-code", "other"}
    assert gateway.cost("other", 1_000_000, 1_000_000) == 3
    assert gateway.cost("first", 1_000_000, 1_000_000) == 8.8


@pytest.mark.parametrize("prices", ["doubao", "doubao=1", "doubao=1/x", "a=1/2;b=1/2", "=1/2", "a=-1/2"])
def test_malformed_prices_are_refused(tmp_path: Path, prices: str) -> None:
    with pytest.raises(SettingsError, match="PIBOT_PRICES must be like"):
        Settings.load({"PIBOT_PRICES": prices}, tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "changeme", "Change-Me!", "your-key-here", "your_api_key", "<key>", "${KEY}", "xxxxxxxx", "password",
        "my-token", "PIBOT_API_KEY", "api-key", "replace this", "123456", "raspberry",
    ],
)  # fmt: skip
def test_a_placeholder_is_refused_as_a_key_and_not_repeated(tmp_path: Path, key: str) -> None:
    for variable, value in {"PIBOT_API_KEY": key, "PIBOT_KEY_WALL": f"read:{key}", "WORKER_1_TOKEN": key}.items():
        with pytest.raises(SettingsError, match=f"{variable} is a placeholder.*token_urlsafe") as caught:
            load(tmp_path, **{variable: value})
        assert key not in str(caught.value).replace(variable, "")


def test_a_short_fleet_key_still_works(tmp_path: Path) -> None:
    assert load(tmp_path, PIBOT_API_KEY="k7").api_key == Secret("k7")


def test_the_limit_of_jobs_a_minute_can_be_set(tmp_path: Path) -> None:
    assert load(tmp_path).submit_per_minute == 600
    assert load(tmp_path, PIBOT_SUBMIT_PER_MINUTE="0").submit_per_minute == 0
    with pytest.raises(SettingsError, match="PIBOT_SUBMIT_PER_MINUTE"):
        load(tmp_path, PIBOT_SUBMIT_PER_MINUTE="-1")


@pytest.mark.parametrize("path", ["/", "{folder}", "{folder}/.env", "{folder}/../{name}"])
def test_tasks_may_not_be_given_a_path_that_holds_the_keys(tmp_path: Path, path: str) -> None:
    with pytest.raises(SettingsError, match="PIBOT_READ_PATHS must not hold"):
        load(tmp_path, PIBOT_READ_PATHS=path.format(folder=tmp_path, name=tmp_path.name))
    assert load(tmp_path, PIBOT_READ_PATHS=f"{tmp_path}/notes").read_paths == (tmp_path / "notes",)
    assert load(tmp_path, PIBOT_READ_PATHS="/", PIBOT_SANDBOX="off").read_paths == (Path("/"),)


@pytest.mark.parametrize(
    "host", ["127.0.0.1:5001", "pi:5001", "[::1]", "::1:5000:x", "192.168.10.300", "192.168.1", "1"]
)
def test_a_workers_address_with_a_port_or_of_no_form_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(SettingsError, match=r"WORKER_1_IP must be .*WORKER_1_PORT"):
        Settings.load({"WORKER_1_IP": host}, tmp_path)


@pytest.mark.parametrize("host", ["192.168.10.66", "fd00::1", "::1", "pi-2.local", "2pi"])
def test_a_workers_address_is_an_ip_address_or_a_name(tmp_path: Path, host: str) -> None:
    assert Settings.load({"WORKER_1_IP": host}, tmp_path).workers[0].host == host


def test_the_first_name_after_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"\xef\xbb\xbfWORKER_ID=attic\nMODEL_NAME=m\n")
    settings = Settings.load({}, tmp_path)
    assert (settings.worker_id, settings.llm.model) == ("attic", "m")
