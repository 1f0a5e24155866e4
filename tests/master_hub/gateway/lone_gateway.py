"""A hub that has only the gateway, over real HTTP, in front of a scripted provider."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai

from pibot import web
from pibot.background import BackgroundLoop
from pibot.contracts import Caller, Clock, Scope
from pibot.errors import LLMConfigurationError
from pibot.llm_client.configuration import check
from pibot.llm_client.retry import RetryLoop, RetryPolicy
from pibot.master_components import JobStore
from pibot.master_hub.gateway.caller import ModelCaller
from pibot.master_hub.gateway.gateway import Gateway
from pibot.master_hub.gateway.ledger import Ledger
from pibot.master_hub.gateway.provider import Provider
from pibot.master_hub.gateway.routes import create_gateway_blueprint
from pibot.master_hub.gateway.shares import PLANNER, Shares
from pibot.settings import GatewaySettings, LLMSettings, Secret
from pibot.web.keys import OWNER
from tests.support import scripted_llm as model
from tests.support.scripted_llm import ScriptedLLM
from tests.support.serving import Answer, ask, serving

KEY = "fleet-key"
TOKEN = "the-token-of-worker-1"
OTHER_TOKEN = "the-token-of-worker-2"
WORKER = Caller("worker-1", Scope.WORKER, "worker-1")
OTHER_WORKER = Caller("worker-2", Scope.WORKER, "worker-2")
CALLERS = (PLANNER, OWNER.name, WORKER.name, OTHER_WORKER.name)
KEYS = ((KEY, OWNER), (TOKEN, WORKER), (OTHER_TOKEN, OTHER_WORKER))
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True)
class Running:
    port: int
    gateway: Gateway
    loop: BackgroundLoop
    store: JobStore

    def chat(self, body: object = HELLO, *, key: str | None = KEY) -> Answer:
        return ask(self.port, "POST", "/v1/chat/completions", body, key=key)

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", api_key=KEY, max_retries=0)


def settings_for(llm: ScriptedLLM) -> LLMSettings:
    return LLMSettings(api_key=Secret(model.API_KEY), base_url=llm.url, model=model.MODEL, timeout=20.0, retries=0)


def running(
    settings: LLMSettings,
    *,
    slots: int = 8,
    sharing: Sequence[str] = CALLERS,
    clock: Clock = time.monotonic,
    **more: Any,
) -> Iterator[Running]:
    """Run a hub with only the gateway.

    Args:
        settings: the provider's.
        slots: calls at the provider at once, and callers at once.
        sharing: the callers for whom a place is kept.
        clock: the gateway's.
        more: for :class:`GatewaySettings`; by default the model ``m`` may be asked too.
    """
    loop = BackgroundLoop()
    endpoints, problem = [], None
    limits = GatewaySettings(**{"models": ("m",), **more})
    try:
        endpoints = [check(s) for s in (settings, limits.fallback) if s is not None]
    except LLMConfigurationError as exc:
        problem = str(exc)
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(JobStore(Path(folder) / "jobs.db")) as store:
        ledger = Ledger(store, limits)
        providers = [Provider(endpoint, silence=settings.timeout) for endpoint in endpoints]
        caller = ModelCaller(
            providers,
            problem,
            ledger,
            slots=Shares(limits.calls or slots, sharing),
            model_seconds=settings.timeout,
            retry_loop=RetryLoop(RetryPolicy(retries=settings.retries, base=0.001), clock=clock),
        )
        gateway = Gateway(caller, loop, threads=Shares(slots, set(sharing) - {PLANNER}))
        app = web.create_app(__name__, keys=web.KeyRing([(Secret(key), caller) for key, caller in KEYS]))
        app.register_blueprint(create_gateway_blueprint(gateway, settings.model, limits.models_beside(settings.model)))
        with serving(app) as port:
            yield Running(port, gateway, loop, store)
        loop.run(gateway.close()).result()
        loop.stop()
        ledger.close()
