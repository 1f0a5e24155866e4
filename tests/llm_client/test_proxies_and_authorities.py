"""A provider behind a proxy, with a certificate of its own authority, or with an address in another form."""

from __future__ import annotations

import logging
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pibot.errors import LLMConfigurationError, LLMRejected, LLMUnavailable, SettingsError
from pibot.llm_client.client import create_llm_client
from pibot.llm_client.configuration import check
from pibot.settings import LLMSettings, Secret, Settings
from pibot.settings.proxies import bypassed
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.certificates import Authority
from tests.support.proxy_server import ProxyServer
from tests.support.replies import Reply
from tests.support.scripted_llm import API_KEY, ScriptedLLM, error, text

TOKEN = "the-worker-s-own-token-0123456789"
LOGIN = "owner:p%40ss-word-of-the-proxy"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def secure(authority: Authority) -> Iterator[ScriptedLLM]:
    """A provider with a certificate of an authority that nobody else knows."""
    files = authority.certify("provider", "127.0.0.1", "model.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with ScriptedLLM(context=context) as server:
        yield server


async def test_a_provider_is_asked_through_a_tunnel_with_user_and_password(
    make_client: MakeClient, secure: ScriptedLLM, authority: Authority
) -> None:
    secure.enqueue(text("good"), text("again"))
    with ProxyServer("owner:p@ss-word-of-the-proxy", instead=("127.0.0.1", secure.port)) as proxy:
        client = make_client(
            base_url="https://model.example/v1",  # a name that only the proxy can find
            proxy=Secret(f"http://{LOGIN}@127.0.0.1:{proxy.port}"),
            ca=authority.ca,
        )
        assert (await client.complete(HELLO)).text == "good"
        assert (await client.complete(HELLO)).text == "again"
        assert set(proxy.asked) == {"CONNECT model.example:443 HTTP/1.1"}
        await client.close()
    assert secure.requests[0].authorization == f"Bearer {API_KEY}"
    assert "proxy-authorization" not in secure.requests[0].headers


async def test_a_provider_without_tls_is_asked_through_the_proxy_too(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("good"))
    with ProxyServer() as proxy:
        client = make_client(proxy=Secret(f"http://127.0.0.1:{proxy.port}"))
        assert (await client.complete(HELLO)).text == "good"
        assert proxy.asked == [f"POST {server.url}/chat/completions HTTP/1.1"]
        await client.close()


async def test_a_proxy_may_itself_speak_tls(
    make_client: MakeClient, backend: str, secure: ScriptedLLM, authority: Authority
) -> None:
    secure.enqueue(text("good"))
    files = authority.certify("proxy", "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.cert, files.key)
    with ProxyServer(context=context) as proxy:
        address, through = f"https://127.0.0.1:{secure.port}/v1", Secret(f"https://127.0.0.1:{proxy.port}")
        if backend == "aiohttp" and sys.version_info < (3, 11):  # asyncio can't do it there
            with pytest.raises(LLMConfigurationError, match=r"PIBOT_LLM_PROXY.*Python 3\.11"):
                make_client(base_url=address, proxy=through, ca=authority.ca)
            return
        client = make_client(base_url=address, proxy=through, ca=authority.ca)
        assert (await client.complete(HELLO)).text == "good"
        await client.close()


async def test_a_proxy_that_wants_a_password_says_where_to_put_it(
    make_client: MakeClient, secure: ScriptedLLM, caplog: pytest.LogCaptureFixture
) -> None:
    with ProxyServer("owner:another"), caplog.at_level(logging.DEBUG), ProxyServer("owner:another") as proxy:
        client = make_client(
            base_url=f"https://127.0.0.1:{secure.port}/v1",
            proxy=Secret(f"http://{LOGIN}@127.0.0.1:{proxy.port}"),
            retries=0,
        )
        with pytest.raises(LLMUnavailable, match=r"407.*PIBOT_LLM_PROXY") as raised:
            await client.complete(HELLO)
    for shown in (str(raised.value), caplog.text, repr(client), repr(check(LLMSettings(Secret(API_KEY))))):
        assert "ss-word-of" not in shown


async def test_a_proxy_that_is_not_there_is_named(make_client: MakeClient, secure: ScriptedLLM) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    client = make_client(
        base_url=f"https://127.0.0.1:{secure.port}/v1", proxy=Secret(f"http://127.0.0.1:{port}"), retries=0
    )
    with pytest.raises(LLMUnavailable, match="proxy"):
        await client.complete(HELLO)


async def test_an_authority_of_the_providers_own_is_trusted_where_it_is_named(
    make_client: MakeClient, secure: ScriptedLLM, authority: Authority
) -> None:
    secure.enqueue(text("good"))
    address = f"https://127.0.0.1:{secure.port}/v1"

    with pytest.raises(LLMUnavailable, match=r"certificate.*PIBOT_LLM_CA"):
        await make_client(base_url=address, retries=0).complete(HELLO)
    assert (await make_client(base_url=address, ca=authority.ca).complete(HELLO)).text == "good"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_authorities_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(LLMConfigurationError, match=r"PIBOT_LLM_CA.*ca\.pem"):
        check(LLMSettings(Secret(API_KEY), ca=path))


@pytest.mark.parametrize(
    ("address", "without", "named"),
    [
        ("https://model.example/v1", "", "http://tls-proxy:3128"),
        ("http://model.example/v1", "", "http://plain-proxy:3128"),
        ("https://model.example/v1", "other.example", "http://tls-proxy:3128"),
        ("https://model.example/v1", "model.example", None),
        ("https://model.example/v1", ".example", None),
        ("https://model.example/v1", "example", None),
        ("https://model.example/v1", "*.example", None),
        ("https://mymodel.example/v1", "model.example", "http://tls-proxy:3128"),
        ("https://model.example/v1", "a.example, MODEL.example", None),
        ("https://model.example/v1", "*", None),
        ("https://model.example/v1", "model.example:8443", "http://tls-proxy:3128"),
        ("https://model.example:8443/v1", "model.example:8443", None),
        ("http://192.168.10.20:11434/v1", "192.168.0.0/16", None),
        ("http://192.168.10.20:11434/v1", "192.168.10.20", None),
        ("http://192.168.10.20:11434/v1", "10.0.0.0/8 192.168.10.20:11434", None),
        ("http://192.168.10.20:11434/v1", "10.0.0.0/8", "http://plain-proxy:3128"),
        ("http://[fd00::5]:11434/v1", "fd00::/8", None),
        ("http://[fd00::5]:11434/v1", "[fd00::5]:11434", None),
        ("http://[fd00::5]:11434/v1", "fe80::/10", "http://plain-proxy:3128"),
    ],
)
def test_the_environments_proxy_is_taken_where_the_owner_says_so(
    tmp_path: Path, address: str, without: str, named: str | None
) -> None:
    environ = {
        "VOLC_BASE_URL": address,
        "HTTPS_PROXY": "http://tls-proxy:3128",
        "http_proxy": "plain-proxy:3128",
        "NO_PROXY": without,
    }
    assert Settings.load(environ, tmp_path).llm.proxy is None

    found = Settings.load({**environ, "PIBOT_LLM_PROXY": "environment"}, tmp_path).llm.proxy
    assert (None if found is None else found.reveal()) == named


def test_the_fallback_has_its_own_proxy_and_the_hub_none(tmp_path: Path) -> None:
    environ = {
        "VOLC_BASE_URL": "https://model.example/v1",
        "PIBOT_FALLBACK_MODEL": "small",
        "PIBOT_FALLBACK_BASE_URL": "http://192.168.10.20:11434/v1",
        "HTTPS_PROXY": "http://tls-proxy:3128",
        "ALL_PROXY": "http://any-proxy:3128",
        "NO_PROXY": "192.168.0.0/16",
        "PIBOT_LLM_PROXY": "environment",
    }
    settings = Settings.load(environ, tmp_path)
    assert settings.llm.proxy == Secret("http://tls-proxy:3128")
    assert settings.gateway.fallback is not None
    assert settings.gateway.fallback.proxy is None

    hub = {"PIBOT_HUB_URL": "http://pi4:5000", "VOLC_BASE_URL": "http://pi4:5000/v1"}
    assert Settings.load({**hub, "PIBOT_LLM_PROXY": "http://proxy:3128"}, tmp_path).llm.proxy is None
    # The playbook's workers have no PIBOT_HUB_URL.
    hub = {"VOLC_BASE_URL": "http://pi4:5000/v1", "VOLC_API_KEY": TOKEN, "PIBOT_API_KEY": TOKEN}
    assert Settings.load({**hub, "PIBOT_LLM_PROXY": "http://proxy:3128"}, tmp_path).llm.proxy is None


@pytest.mark.parametrize("value", ["proxy:3128", "socks5://proxy:1080", "http://proxy:port", "secret word"])
def test_a_proxys_address_that_can_not_be_right_is_refused_and_not_repeated(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"PIBOT_LLM_PROXY must be like http://host:3128") as raised:
        Settings.load({"PIBOT_LLM_PROXY": value}, tmp_path)
    assert value not in str(raised.value)


@pytest.mark.parametrize("password", ["12#34", "12/34", "12?34"])
def test_a_sign_in_a_proxys_password_that_ends_an_address_is_told(tmp_path: Path, password: str) -> None:
    with pytest.raises(SettingsError, match=r"PIBOT_LLM_PROXY must .*write # as %23") as raised:
        Settings.load({"PIBOT_LLM_PROXY": f"http://owner:{password}@proxy:3128"}, tmp_path)
    assert password not in str(raised.value)


def test_an_entry_of_no_proxy_that_is_no_network_bypasses_nothing() -> None:
    assert not bypassed("10.1.2.3", 80, "10.1.2.3/99, 10.1, nonsense/8,,")


async def test_an_address_without_a_route_does_not_keep_the_next_one_waiting(
    make_client: MakeClient, server: ScriptedLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address takes packets and answers none, as an announced IPv6 network without a route does."""
    server.enqueue(text("good"))
    found = socket.getaddrinfo

    def announced(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if host not in ("dual.example", b"dual.example"):
            return found(host, port, *args, **more)
        kinds = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [
            (socket.AF_INET, *kinds, ("127.0.0.9", server.port)),
            (socket.AF_INET, *kinds, ("127.0.0.1", server.port)),
        ]

    with socket.socket() as silent:
        silent.bind(("127.0.0.9", server.port))
        silent.listen(0)
        filling = [socket.socket() for _ in range(4)]
        for connection in filling:
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.9", server.port))
        monkeypatch.setattr(socket, "getaddrinfo", announced)
        client = make_client(base_url=f"http://dual.example:{server.port}/v1", retries=0, timeout=5.0)
        assert (await client.complete(HELLO)).text == "good"
        for connection in filling:
            connection.close()


ARK, GEMINI = "https://ark.cn-beijing.volces.com", "https://generativelanguage.googleapis.com"


@pytest.mark.parametrize(
    ("given", "completions"),
    [
        (f"{ARK}/api/coding/v3/", f"{ARK}/api/coding/v3/chat/completions"),
        (ARK, f"{ARK}/api/v3/chat/completions"),
        ("https://api.openai.com", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.openai.com/v1/chat/completions/", "https://api.openai.com/v1/chat/completions"),
        ("https://api.deepseek.com", "https://api.deepseek.com/v1/chat/completions"),
        (GEMINI, f"{GEMINI}/v1beta/openai/chat/completions"),
        ("https://api.mistral.ai", "https://api.mistral.ai/v1/chat/completions"),
        ("http://192.168.10.20:11434", "http://192.168.10.20:11434/v1/chat/completions"),
        ("http://192.168.10.20:1234/", "http://192.168.10.20:1234/v1/chat/completions"),
        ("http://llm.lan:8000//v1//", "http://llm.lan:8000/v1/chat/completions"),
        ("HTTPS://llm.example/v1", "https://llm.example/v1/chat/completions"),
        ("https://mine.services.ai.azure.com/models", "https://mine.services.ai.azure.com/models/chat/completions"),
        (
            "https://mine.openai.azure.com/openai/deployments/gpt/chat/completions?api-version=2024-10-21",
            "https://mine.openai.azure.com/openai/deployments/gpt/chat/completions",
        ),
    ],
)
def test_an_address_may_be_given_in_the_forms_that_documentation_shows(
    tmp_path: Path, given: str, completions: str
) -> None:
    settings = Settings.load({"VOLC_API_KEY": API_KEY, "VOLC_BASE_URL": given, "MODEL_NAME": "some-model"}, tmp_path)
    assert check(settings.llm).completions_url == completions


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("https://api.openai.com/v1/responses", "/responses"),
        ("https://api.anthropic.com/v1/messages", "/messages"),
        ("http://192.168.10.20:11434/api/generate", "/api/generate"),
        ("http://192.168.10.20:11434/api/chat", "/api/chat"),
        ("http://llm.lan:8080/v1/completions", "/completions"),
        ("https://api.deepseek.com/anthropic", "/anthropic"),
        ("https://platform.openai.com/api-keys", "docs/models.md"),
        ("https://chat.deepseek.com", "docs/models.md"),
        ("https://console.volcengine.com/ark/region", "docs/models.md"),
        ("https://llm.example/v1#chat", "'#'"),
        (f"{ARK}/api/coding", "/api/coding/v3"),
        (f"{GEMINI}/v1beta", "/v1beta/openai"),
        ("https://openrouter.ai/v1", "/api/v1"),
        ("https://dashscope.aliyuncs.com/api/v1", "/compatible-mode/v1"),
    ],
)
def test_an_address_that_can_not_be_right_says_what_it_should_be_like(given: str, named: str) -> None:
    with pytest.raises(LLMConfigurationError, match=r"VOLC_BASE_URL .*must be like https://host/v1") as raised:
        check(LLMSettings(Secret(API_KEY), given, "some-model"))
    assert named in str(raised.value)


async def test_azure_gets_its_key_in_a_header_of_its_own_and_its_version_in_the_query(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(text("good"))
    address = f"{server.url}/openai/deployments/gpt/chat/completions?api-version=2024-10-21"

    await make_client(base_url=address, profile={"like": "azure"}).complete(HELLO)

    [request] = server.requests
    assert request.path == "/v1/openai/deployments/gpt/chat/completions?api-version=2024-10-21"
    assert request.headers["api-key"] == API_KEY
    assert request.authorization == ""


async def test_the_owners_further_fields_are_sent_and_their_keys_never_shown(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    key = "a-key-in-a-field-4711"
    extra = {
        "thinking": {"type": "disabled"},
        "router": {"api_key": key},
        "user": "0c0ffee0-4711-4711-4711-aaaaaaaaaaaa",
    }
    server.enqueue(error(401, f"no such router: {key} of {extra['user']}, thinking of nothing"))
    client = make_client(extra=extra, retries=0)

    with pytest.raises(Exception, match="no such router") as raised:
        await client.complete(HELLO)

    assert {name: server.requests[0].json[name] for name in extra} == extra
    for shown in (str(raised.value), repr(client), repr(LLMSettings(extra=extra))):
        assert key not in shown
        assert "4711-4711" not in shown


@pytest.mark.parametrize(
    "value",
    [
        *('{"model": "x"}', '{"Messages": []}', '{"stream": true}', '{"tools": []}', "[1]", "{", "thinking=off"),
        *('{"temperature": NaN}', '{"user": "\\ud800"}'),
    ],
)
def test_further_fields_that_can_not_be_right_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match="PIBOT_LLM_EXTRA"):
        Settings.load({"PIBOT_LLM_EXTRA": value}, tmp_path)


def test_a_window_that_can_not_be_right_names_its_own_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="PIBOT_MODEL_WINDOW must be"):
        Settings.load({"PIBOT_MODEL_WINDOW": "999999999999"}, tmp_path)


def test_a_fallback_elsewhere_gets_none_of_the_first_models_further_fields(tmp_path: Path) -> None:
    environ = {"PIBOT_LLM_EXTRA": '{"a": 1}', "PIBOT_LLM_PROFILE": "mistral", "PIBOT_FALLBACK_MODEL": "small"}
    beside = Settings.load(environ, tmp_path).gateway.fallback
    there = Settings.load({**environ, "PIBOT_FALLBACK_BASE_URL": "http://pi:1234/v1"}, tmp_path).gateway.fallback
    named = Settings.load({**environ, "PIBOT_FALLBACK_EXTRA": '{"b": 2}'}, tmp_path).gateway.fallback

    assert beside is not None
    assert there is not None
    assert named is not None
    assert (beside.extra, beside.profile) == ({"a": 1}, {"like": "mistral"})
    assert (there.extra, there.profile) == ({}, {})
    assert named.extra == {"b": 2}


@pytest.mark.parametrize(
    ("value", "reply", "named"),
    [
        ({"PIBOT_FALLBACK_API_KEY": "your_api_key_here"}, None, "PIBOT_FALLBACK_API_KEY"),
        ({"PIBOT_FALLBACK_BASE_URL": "https://api.openai.com/v1/responses"}, None, "PIBOT_FALLBACK_BASE_URL"),
        ({}, error(401, "wrong key"), "PIBOT_FALLBACK_API_KEY"),
        ({}, error(402, "pay"), "PIBOT_FALLBACK_API_KEY"),
        ({}, error(404, "no such model"), "PIBOT_FALLBACK_MODEL"),
        ({}, error(418, "odd"), "PIBOT_FALLBACK_MODEL"),
    ],
)
async def test_what_is_wrong_with_the_fallback_names_its_own_settings(
    server: ScriptedLLM, tmp_path: Path, value: dict[str, str], reply: Reply | None, named: str
) -> None:
    environ = {"VOLC_API_KEY": API_KEY, "PIBOT_FALLBACK_MODEL": "small", "PIBOT_FALLBACK_BASE_URL": server.url, **value}
    fallback = Settings.load(environ, tmp_path).gateway.fallback
    assert fallback is not None
    if reply is not None:
        server.enqueue(reply)

    with pytest.raises((LLMConfigurationError, LLMRejected)) as raised:
        async with create_llm_client(fallback) as client:
            await client.complete(HELLO)

    assert named in str(raised.value)
    assert "VOLC_" not in str(raised.value)
    assert "MODEL_NAME" not in str(raised.value)
    assert "second model" not in str(raised.value)
