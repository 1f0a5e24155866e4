"""What is known of each provider, and what an owner may change of it."""

from __future__ import annotations

from typing import Any

import pytest

from pibot.errors import LLMConfigurationError
from pibot.llm_client.profiles import Content, IdForm, ProviderProfile, Schema, for_endpoint


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://ark.cn-beijing.volces.com/api/coding/v3", "ark"),
        ("https://ark.ap-southeast.bytepluses.com/api/v3", "ark"),
        ("https://api.deepseek.com/v1", "deepseek"),
        ("https://api.openai.com/v1", "openai"),
        ("https://eu.api.openai.com/v1", "openai"),
        ("https://mine.openai.azure.com/openai/deployments/gpt", "azure"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gemini"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://api.moonshot.cn/v1", "moonshot"),
        ("https://dashscope-intl.aliyuncs.com/compatible-mode/v1", "dashscope"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("http://192.168.10.20:11434/v1", "ollama"),
        ("http://192.168.10.20:1234/v1", "lmstudio"),
        ("http://192.168.10.20:8000/v1", "unknown"),
        ("https://api.openai.com.example.org/v1", "unknown"),
        ("https://notdeepseek.com/v1", "unknown"),
    ],
)
def test_a_provider_is_known_by_its_host_or_its_usual_port(address: str, name: str) -> None:
    assert for_endpoint(address, "some-model").name == name


def test_an_unknown_provider_gets_the_careful_middle() -> None:
    profile = for_endpoint("https://llm.example/v1", "some-model")

    assert profile == ProviderProfile()
    assert profile.window is None
    assert profile.schema is Schema.SINGLE_TYPES


def test_a_models_name_says_more_than_its_provider_alone() -> None:
    ark, deepseek = "https://ark.cn-beijing.volces.com/api/v3", "https://api.deepseek.com"

    assert for_endpoint(ark, "doubao-seed-code").window == 262_144
    assert for_endpoint(deepseek, "deepseek-v4-flash").reasoning_required
    assert not for_endpoint(deepseek, "deepseek-chat").reasoning_required
    assert for_endpoint("https://generativelanguage.googleapis.com", "gemini-3-pro").signature_required
    assert not for_endpoint("https://generativelanguage.googleapis.com", "gemini-2.5-flash").signature_required
    assert for_endpoint("http://hub:5000/v1", "gemini-3-pro").signature_required
    assert for_endpoint("https://openrouter.ai/api/v1", "moonshotai/kimi-k2-0905").window == 262_144
    assert for_endpoint("http://pi:11434/v1", "gpt-4o").window is None


def test_the_owner_can_change_any_field_and_name_another_profile() -> None:
    override = {"like": "mistral", "window": 32_000, "beside_calls": "null", "left_out": ["seed"], "system_role": False}

    profile = for_endpoint("https://llm.example/v1", "some-model", override)

    assert profile.name == "mistral"
    assert profile.id_form is IdForm.NINE
    assert profile.window == 32_000
    assert profile.beside_calls is Content.NULL
    assert profile.left_out == {"seed"}
    assert not profile.system_role


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ({"like": "mistrel"}, "mistral"),
        ({"like": 3}, "mistral"),
        ({"windw": 5}, "window"),
        ({"name": "mistral"}, "like"),
        ({"window": "8k"}, "tokens"),
        ({"window": True}, "tokens"),
        ({"window": -1}, "tokens"),
        ({"system_role": "no"}, "true or false"),
        ({"schema": "small"}, "subset"),
        ({"left_out": "seed"}, "list of names"),
        ({"key_header": "X-Key\r\nEvil: 1"}, "key_header"),
    ],
)
def test_an_override_that_can_not_be_right_names_the_setting_and_what_it_may_be(
    override: dict[str, Any], named: str
) -> None:
    with pytest.raises(LLMConfigurationError, match="PIBOT_LLM_PROFILE") as raised:
        for_endpoint("https://llm.example/v1", "some-model", override)

    assert named in str(raised.value)
