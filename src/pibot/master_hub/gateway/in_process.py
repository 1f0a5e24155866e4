"""The planner's way through the gateway, without HTTP: the same budgets, models, limits and counts hold for it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence

from pibot.contracts import JsonObject, SubTask, TaskPlan, TaskResult, Usage
from pibot.llm_client import ChatClient
from pibot.llm_client.backend import HttpAnswer, timed_out
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.retry import RetryPolicy
from pibot.master_components import TaskPlanner
from pibot.master_hub.gateway.gateway import Gateway
from pibot.master_hub.gateway.provider import GatewayError
from pibot.master_hub.gateway.routes import RETRY_AFTER


class GatewayBackend:
    """A backend of the model's client that calls the gateway within its loop.

    Args:
        gateway: passes the calls on.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def post(self, body: JsonObject, *, timeout: float) -> HttpAnswer:
        try:
            answer = await asyncio.wait_for(self._gateway.ask(body), timeout)
        except GatewayError as exc:
            content = json.dumps(exc.to_json()).encode()
            again = {"retry_after": str(RETRY_AFTER)} if exc.tell_again else {"should_retry": "false"}
            return HttpAnswer(exc.status, content, "application/json", **again)
        except asyncio.TimeoutError:
            failure = timed_out(timeout)
        else:
            headers = answer.headers
            return HttpAnswer(
                answer.status,
                answer.content,
                headers.get("Content-Type", ""),
                headers.get("Retry-After"),
                should_retry=headers.get("x-should-retry"),
            )
        raise failure

    async def close(self) -> None:
        """The gateway's connections are its owner's."""


def create_planning_client(endpoint: Endpoint, gateway: Gateway, retries: int) -> ChatClient:
    """The model's client for the planner.

    Args:
        endpoint: where the model is, for what is told of it.
        retries: how often a call is made again that found no place.
    """
    return ChatClient(
        endpoint,
        GatewayBackend(gateway),
        RetryPolicy(retries=retries),
        attempt_timeout=gateway.patience,
        sleep=asyncio.sleep,
        random=random.random,
        clock=time.monotonic,
        wall_clock=time.time,
    )


class CountedPlanner:
    """A planner whose calls the gateway has counted already, so that it tells of none.

    Args:
        planner: does the work.
    """

    def __init__(self, planner: TaskPlanner) -> None:
        self._planner = planner

    async def analyze(self, description: str) -> tuple[TaskPlan, Usage]:
        plan, _ = await self._planner.analyze(description)
        return plan, Usage()

    async def compose(self, description: str, results: Sequence[tuple[SubTask, TaskResult]]) -> tuple[str, Usage]:
        text, _ = await self._planner.compose(description, results)
        return text, Usage()
