"""Permanent refusals and repeated failures of a server, and the errors made of them."""

from __future__ import annotations

import pytest

from pibot.contracts import fault_of
from pibot.errors import LLMError, LLMRejected, LLMUnavailable
from pibot.llm_client.failures import GATEWAY
from tests.llm_client.conftest import HELLO, MakeClient
from tests.support.replies import Reply
from tests.support.scripted_llm import MODEL, ScriptedLLM, error, hang, html, raw, reply_json


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        pytest.param(error(401, "no such key"), 401, ["no such key", "VOLC_API_KEY", "OPENAI_API_KEY"], id="401"),
        pytest.param(
            error(400, "No connected db.", type="no_db_connection"), 401, ["(400)", "VOLC_API_KEY"], id="LiteLLM's 401"
        ),
        pytest.param(error(403, "not yours"), 403, ["not yours", "VOLC_API_KEY", MODEL], id="403"),
        pytest.param(
            error(404, "no such model"), 404, ["no such model", "MODEL_NAME", MODEL, "VOLC_BASE_URL"], id="404"
        ),
        pytest.param(error(400, "no tools here"), 400, ["no tools here", "MODEL_NAME"], id="400"),
        pytest.param(error(402, "pay first"), 402, ["pay first", "account"], id="402"),
        pytest.param(error(405), 405, ["scripted error"], id="405"),
        pytest.param(error(413, "too much"), 413, ["too much", "too large"], id="413"),
        pytest.param(error(422, "no"), 422, ["no"], id="422"),
        pytest.param(error(429, "pay", code="insufficient_quota"), 429, ["pay", "account"], id="429 used up"),
        pytest.param(error(200, "no such key", code=401), 401, ["no such key", "VOLC_API_KEY"], id="401 under 200"),
        pytest.param(error(200, "who?", type="authentication_error"), 200, ["who?"], id="lasting kind under 200"),
        pytest.param(reply_json({"error": "bare text"}, status=400), 400, ["bare text"], id="error as text"),
        pytest.param(reply_json([{"error": {"message": "listed"}}], status=400), 400, ["listed"], id="error in a list"),
        pytest.param(reply_json({"detail": [{"msg": "field"}]}, status=422), 422, ["field"], id="detail as a list"),
        pytest.param(reply_json({"message": "top", "code": 7}, status=400), 400, ["top"], id="message at the top"),
        pytest.param(reply_json({"error": {"code": 3}}, status=400), 400, ['"code": 3'], id="error without message"),
        pytest.param(html("<style>b{}</style><h1>Forbidden</h1>", status=403), 403, ['"Forbidden"'], id="a page"),
        pytest.param(raw("", status=401), 401, ["VOLC_API_KEY"], id="no body"),
    ],
)
async def test_a_permanent_refusal_is_not_retried_and_says_what_to_check(
    make_client: MakeClient, server: ScriptedLLM, reply: Reply, status: int, words: list[str]
) -> None:
    server.enqueue(reply)

    with pytest.raises(LLMRejected) as caught:
        await make_client().complete(HELLO)

    assert caught.value.status == status
    for word in [*words, server.url]:
        assert word in str(caught.value)
    server.assert_done()


def of_gateway(status: int, code: str, sentence: str) -> Reply:
    return reply_json({"error": {"message": sentence, "type": GATEWAY, "code": code}}, status=status)


async def test_a_master_whose_key_the_provider_refuses_ends_the_task_and_is_no_fault_of_this_worker(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(of_gateway(502, "provider_refuses", "no such key, on the master"))

    with pytest.raises(LLMRejected, match="no such key, on the master") as caught:
        await make_client().complete(HELLO)

    assert fault_of(caught.value) is None
    server.assert_done()


async def test_a_worker_with_too_many_calls_of_its_own_takes_no_provider_for_away(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.answer_with(of_gateway(429, "share_used_up", "too many calls with this key"))

    with pytest.raises(LLMUnavailable) as caught:
        await make_client(retries=1).complete(HELLO)

    assert len(server.requests) == 2
    assert fault_of(caught.value) is None


async def test_the_error_of_a_server_that_keeps_failing_quotes_it_and_counts_the_attempts(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.answer_with(error(503, "the model is asleep"))

    with pytest.raises(LLMUnavailable) as caught:
        await make_client(retries=3).complete(HELLO)

    assert len(server.requests) == 4
    for words in ("503", "the model is asleep", "asked 4 times", server.url):
        assert words in str(caught.value)


async def test_no_retries_means_one_attempt(make_client: MakeClient, server: ScriptedLLM) -> None:
    server.enqueue(error(500))

    with pytest.raises(LLMUnavailable, match="asked once"):
        await make_client(retries=0).complete(HELLO)

    server.assert_done()


async def test_a_quoted_error_is_one_short_line_without_control_characters(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(error(400, "first\nsecond\x1b[31m\u202e" + " long" * 1000))

    with pytest.raises(LLMRejected) as caught:
        await make_client().complete(HELLO)

    message = str(caught.value)
    assert message.isprintable()
    assert "first second" in message
    assert len(message) < 700


@pytest.mark.parametrize("reply", [error(500), error(400), error(200, "x", code=400), raw("pong")])
async def test_no_error_keeps_the_error_that_caused_it(
    make_client: MakeClient, server: ScriptedLLM, reply: Reply
) -> None:
    server.enqueue(reply)

    with pytest.raises(LLMError) as caught:
        await make_client(retries=0).complete(HELLO)

    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


async def test_a_model_slower_than_the_limit_is_told_with_the_setting_that_limits_it(
    make_client: MakeClient, server: ScriptedLLM
) -> None:
    server.enqueue(hang())

    with pytest.raises(LLMUnavailable, match=r"within 0\.2 seconds; raise PIBOT_LLM_TIMEOUT") as raised:
        await make_client(retries=0, timeout=0.2).complete(HELLO)

    assert "VOLC_BASE_URL" not in str(raised.value)
