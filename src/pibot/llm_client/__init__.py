"""Chat completions from any server that speaks the OpenAI protocol.

- ``configuration`` checks the settings and makes an endpoint of them.
- ``wire`` reads and writes the protocol's JSON.
- ``failures`` classifies answers and errors, and words them for the owner.
- ``retry`` decides when to ask again.
- ``client`` puts these together for one call. Start reading there.
- ``aiohttp_backend`` and ``openai_backend`` carry bytes and know nothing of the rest.
"""

from __future__ import annotations

from pibot.contracts import LLMClient
from pibot.llm_client.client import ChatClient, create_llm_client, create_llm_client_from_env

__all__ = ["ChatClient", "LLMClient", "create_llm_client", "create_llm_client_from_env"]
