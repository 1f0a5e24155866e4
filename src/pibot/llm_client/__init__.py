"""Chat completions from any server that speaks the OpenAI protocol.

The parts, by what changes together: ``configuration`` (where the model is, and whether the settings can be right),
``wire`` (the protocol's JSON), ``failures`` (what may pass, what won't, and what to tell the owner), ``retry`` (when to
ask again), ``client`` (one call, with all of that), and the backends ``aiohttp_backend`` and ``openai_backend``, which
carry bytes and know nothing of the rest.
"""

from __future__ import annotations

from pibot.contracts import LLMClient
from pibot.llm_client.client import ChatClient, create_llm_client, create_llm_client_from_env

__all__ = ["ChatClient", "LLMClient", "create_llm_client", "create_llm_client_from_env"]
