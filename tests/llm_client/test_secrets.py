"""A key never appears in an error, a log or a ``repr``, whatever the server does with it."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Callable
from urllib.parse import quote

import pytest

from pibot.errors import LLMError
from pibot.llm_client import create_llm_client
from pibot.llm_client.configuration import check
from pibot.llm_client.redaction import Redactor
from pibot.settings import LLMSettings, Secret
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import API_KEY, ScriptedLLM, error, html, raw, redirect, reset, text, truncated

QUERY_KEY = "AIza/query+key=7d1f30aa"

LEAKS: dict[str, Callable[[str], Reply]] = {
    "in the message": lambda key: error(401, f"Incorrect API key provided: {key}. See the manual."),
    "in a code": lambda key: error(400, "bad", code=key),
    "as a header": lambda key: error(400, f"headers: Authorization: Bearer {key}"),
    "cut short": lambda key: error(401, f"no key begins with {key[:-4]}"),
    "its end": lambda key: error(401, f"no key ends with {key[6:]}"),
    "at the cut": lambda key: error(401, "x" * 290 + key),
    "in a page": lambda key: html(f"<p>{key}</p>", status=500),
    "in a page with 200": lambda key: html(f"<p>{key}</p>"),
    "in text with 200": lambda key: raw(f"you sent {key}", content_type="text/plain"),
    "in a Content-Type": lambda key: raw("x", content_type=f"text/{key}"),
    "encoded": lambda key: error(400, f"GET /?key={quote(key, safe='')}"),
    "in bare JSON": lambda key: raw(json.dumps({"detail": {"key": key}}), status=422),
    "in broken JSON": lambda key: raw('{"you": "' + key, status=200),
    "in a redirect": lambda key: redirect(f"http://127.0.0.1:9/{quote(key, safe='')}"),
    "under HTTP 200": lambda key: error(200, f"key {key}", code=401),
    "in a status of 5xx": lambda key: error(503, key),
    "not at all: reset": lambda key: reset(),
    "not at all: truncated": lambda key: truncated(text(key)),
}


def seen(exc: BaseException | None) -> str:
    """Return everything that printing an error, its cause or its context could show."""
    shown = []
    while exc is not None:
        shown += [str(exc), repr(exc), repr(exc.args), "".join(traceback.format_exception(type(exc), exc, None))]
        exc = exc.__cause__ or exc.__context__
    return "\n".join(shown)


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
@pytest.mark.parametrize("key", [API_KEY, QUERY_KEY], ids=["key", "key in the URL"])
async def test_a_key_echoed_by_the_server_appears_neither_in_the_error_nor_in_a_log(
    make_client: MakeClient,
    server: ScriptedLLM,
    caplog: pytest.LogCaptureFixture,
    leak: Callable[[str], Reply],
    key: str,
) -> None:
    for name in (None, "openai", "httpx", "httpx2", "httpcore", "httpcore2"):
        caplog.set_level(logging.DEBUG, logger=name)
    server.answer_with(leak(key))
    client = make_client(base_url=f"{server.url}?key={quote(QUERY_KEY, safe='')}", retries=1)

    with pytest.raises(LLMError) as caught:
        await client.complete(HELLO)

    for shown in (seen(caught.value), caplog.text, repr(client)):
        for secret in (API_KEY, QUERY_KEY, quote(QUERY_KEY, safe="")):
            assert secret[:-4] not in shown
            assert secret[6:] not in shown


async def test_the_error_of_an_unreachable_server_hides_the_key_in_its_address(
    make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = make_client(base_url=f"http://127.0.0.1:9/{API_KEY}/v1?key=query-key-0123456", retries=1)

    with pytest.raises(LLMError) as caught:
        await client.complete(HELLO)

    for shown in (seen(caught.value), caplog.text, repr(client)):
        assert API_KEY not in shown
        assert "query-key-0123456" not in shown


def test_settings_and_endpoint_hide_the_key_in_their_repr() -> None:
    settings = LLMSettings(Secret(API_KEY), f"https://example.test/{API_KEY}/v1?key=query-key-0123456")

    for shown in (repr(settings), str(settings), repr(check(settings)), str(check(settings))):
        assert API_KEY not in shown
        assert "query-key-0123456" not in shown


@pytest.mark.parametrize(
    ("changes"),
    [
        {"api_key": Secret("one two-secret-key")},
        {"api_key": Secret("geheimer-schlüssel")},
        {"base_url": "https://me:pass-secret-key@example.test/v1"},
        {"base_url": "ftp://example.test/secret-key"},
        {"base_url": "https://[secret-key"},
        {"base_url": "https://example.test:secret-key/v1"},
    ],
    ids=["space", "letter", "password", "scheme", "brackets", "port"],
)
def test_refused_settings_are_not_quoted(changes: dict[str, object]) -> None:
    settings = LLMSettings(**{"api_key": Secret(API_KEY), **changes})  # type: ignore[arg-type] # one test, many fields

    with pytest.raises(LLMError) as caught:
        create_llm_client(settings)

    assert "secret-key" not in seen(caught.value)
    assert "schlüssel" not in seen(caught.value)


def test_anything_that_looks_like_a_key_is_hidden_too() -> None:
    redactor = Redactor([API_KEY])

    assert redactor.hide("Incorrect API key provided: sk-abcd****wxyz.") == "Incorrect API key provided: ***"
    assert redactor.hide("authorization: Bearer abc.def") == "authorization: ***"


def test_words_that_also_occur_in_the_key_are_kept() -> None:
    assert Redactor(["model-key-1f2e3d"]).hide("no model by that key") == "no model by that key"


def test_a_very_short_key_is_hidden_whole() -> None:
    assert Redactor(["hunter2"]).hide("key hunter2, sir") == "key ***, sir"
