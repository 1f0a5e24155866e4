"""Settings that cannot work are refused before anything is sent; the error says what to set, and where."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from pibot.errors import LLMConfigurationError, SettingsError
from pibot.llm_client import create_llm_client, create_llm_client_from_env
from pibot.llm_client.configuration import check
from pibot.settings import LLMSettings, Secret
from tests.support.scripted_llm import API_KEY, MODEL, ScriptedLLM, text

GOOD = LLMSettings(api_key=Secret(API_KEY), base_url="https://example.test/api/v3", model="some-model")

PLACEHOLDERS = [
    "your_volc_api_key_here",
    "your_api_key",
    "YOUR_API_KEY",
    "your_anything",
    "your-key",
    "your key",
    "changeme",
    "change_me",
    "CHANGE-ME",
    "<your key>",
    "<...>",
    "[key]",
    "${VOLC_API_KEY}",
    "sk-xxx",
    "sk-xxxxxxxxxxxxxxxx",
    "xxx",
    "sk-...",
    "sk-***",
    "...",
    "…",
    "insert-key-here",
    "placeholder",
    "todo",
    "none",
    "api_key",
]


@pytest.mark.parametrize("key", [None, "", "   "])
def test_a_missing_key_is_refused_with_where_to_put_it(key: str | None) -> None:
    settings = dataclasses.replace(GOOD, api_key=None if key is None else Secret(key))

    with pytest.raises(LLMConfigurationError) as caught:
        create_llm_client(settings)

    for words in ("there is no key", "VOLC_API_KEY", "OPENAI_API_KEY", ".env", "environment"):
        assert words in str(caught.value)


@pytest.mark.parametrize("key", PLACEHOLDERS)
def test_a_placeholder_is_refused_with_where_to_put_the_real_key(key: str) -> None:
    with pytest.raises(LLMConfigurationError) as caught:
        create_llm_client(dataclasses.replace(GOOD, api_key=Secret(key)))

    for words in ("placeholder", "VOLC_API_KEY", "OPENAI_API_KEY", ".env", "environment"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        API_KEY,
        "rehearsal",
        "test",
        "4f1d0c9b-e27a-4c51-8d6e-0f3a5b7c9d1e",
        "sk-proj-xyz",
        "yourdata-7f",
        "EMPTY",
        "local-key",
    ],
)
def test_anything_that_may_be_a_key_is_accepted(key: str) -> None:
    assert check(dataclasses.replace(GOOD, api_key=Secret(key))).key.reveal() == key


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel", "tab\tin-it"])
def test_a_key_that_no_header_could_carry_is_refused(key: str) -> None:
    with pytest.raises(LLMConfigurationError, match="VOLC_API_KEY"):
        create_llm_client(dataclasses.replace(GOOD, api_key=Secret(key)))


@pytest.mark.parametrize("model", ["", "  ", "your_model_here", "<model>"])
def test_a_missing_model_name_is_refused_with_where_to_put_it(model: str) -> None:
    with pytest.raises(LLMConfigurationError, match=r"MODEL_NAME.*\.env.*environment"):
        create_llm_client(dataclasses.replace(GOOD, model=model))


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.test/v1",
        "ftp://example.test/v1",
        "https://",
        "https:///v1",
        "https://example.test:99999/v1",
        "https://example.test:port/v1",
        "https://[::1/v1",
        "https://exa mple.test/v1",
        "https://exämple.test/v1",
        "https://a..b/v1",
        f"https://{'a' * 64}.test/v1",
        "https://user:password@example.test/v1",
    ],
)
def test_an_address_that_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(LLMConfigurationError, match="VOLC_BASE_URL"):
        create_llm_client(dataclasses.replace(GOOD, base_url=url))


@pytest.mark.parametrize(
    ("url", "completions"),
    [
        ("https://example.test/v1", "https://example.test/v1/chat/completions"),
        ("https://example.test/v1/", "https://example.test/v1/chat/completions"),
        ("https://example.test", "https://example.test/chat/completions"),
        ("https://example.test/v1/chat/completions", "https://example.test/v1/chat/completions"),
        ("http://[::1]:8080/v1?a=b", "http://[::1]:8080/v1/chat/completions"),
    ],
)
def test_the_path_of_completions_is_appended_once(url: str, completions: str) -> None:
    assert check(dataclasses.replace(GOOD, base_url=url)).completions_url == completions


def test_a_missing_openai_library_is_reported_with_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)

    with pytest.raises(LLMConfigurationError) as caught:
        create_llm_client(dataclasses.replace(GOOD, backend="openai"))

    for words in ("pip install openai", "PIBOT_LLM_BACKEND=aiohttp"):
        assert words in str(caught.value)


def test_a_configuration_error_is_a_settings_error_too() -> None:
    assert issubclass(LLMConfigurationError, SettingsError)


async def test_a_client_is_made_from_the_environment(
    server: ScriptedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    server.enqueue(text("from the environment"))
    client = create_llm_client_from_env(server.environ())

    answer = await client.complete([])
    await client.close()

    assert client.model == MODEL
    assert answer.text == "from the environment"
    assert server.requests[0].authorization == f"Bearer {API_KEY}"


async def test_a_client_is_made_from_dotenv(
    server: ScriptedLLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{name}={value}\n" for name, value in server.environ().items()]
    (tmp_path / ".env").write_text("".join(lines), encoding="utf-8")
    server.enqueue(text("from .env"))

    client = create_llm_client_from_env({})
    answer = await client.complete([])
    await client.close()

    assert answer.text == "from .env"


def test_the_guides_own_example_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(LLMConfigurationError, match="placeholder"):
        create_llm_client_from_env({"VOLC_API_KEY": "your_volc_api_key_here"})


def test_making_a_client_imports_nothing_large() -> None:
    program = (
        "import sys\n"
        "from pibot.llm_client import create_llm_client\n"
        "from pibot.settings import LLMSettings, Secret\n"
        "create_llm_client(LLMSettings(Secret('k-123'), 'http://127.0.0.1:9', 'm'))\n"
        "print([name for name in ('aiohttp', 'asyncio', 'openai', 'ssl') if name in sys.modules])\n"
    )

    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout

    assert found.strip() == "[]"
