"""The hub's own model client: the same way through the gateway as the workers' calls, without HTTP in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from pibot.contracts import Completion, LLMClient, Message, ToolSpec, Usage
from pibot.errors import LLMUnavailable
from pibot.llm_client import wire
from pibot.master_hub.gateway.gateway import Gateway


class GatewayClient(LLMClient):
    """An :class:`~pibot.contracts.LLMClient` for one job. Use it in the gateway's event loop.

    Args:
        gateway: answers the calls.
        model: the model's name.
        job_id: the job that the tokens are counted to.
    """

    def __init__(self, gateway: Gateway, model: str, job_id: str) -> None:
        self._gateway = gateway
        self._model = model
        self._job_id = job_id

    @property
    def model(self) -> str:
        return self._model

    async def complete(
        self, messages: Sequence[Message], tools: Sequence[ToolSpec] = (), *, timeout: float | None = None
    ) -> Completion:
        """Ask for one completion; see :meth:`pibot.contracts.LLMClient.complete`.

        Its usage is empty: the gateway's ledger has already counted the tokens to the job.
        """
        asking = self._gateway.complete(wire.request(self._model, messages, tools), self._job_id)
        try:
            completion = await asyncio.wait_for(asking, timeout)
        except asyncio.TimeoutError:
            failure = LLMUnavailable(f"no model gave an answer within {timeout:g} seconds")
        else:
            return replace(completion, usage=Usage())
        raise failure

    async def close(self) -> None:
        """Do nothing: the connections belong to the gateway."""
