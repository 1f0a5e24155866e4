"""The model gateway: ``/v1/chat/completions`` and ``/v1/models`` as the OpenAI protocol has them.

So a worker needs no key of the provider's: it gets the master's address as ``VOLC_BASE_URL``.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from pibot.contracts import Scope
from pibot.errors import InvalidRequest
from pibot.master_hub.gateway.attempts import NO_RETRY, Call
from pibot.master_hub.gateway.gateway import Gateway, Reply
from pibot.master_hub.gateway.provider import GatewayError
from pibot.web import answer, current_caller, json_body, needs

RETRY_AFTER = 2
"""Seconds that a caller is asked to wait where all places are taken, or the hub is stopping."""


def create_gateway_blueprint(gateway: Gateway, model: str) -> Blueprint:
    """Make the gateway's routes.

    Args:
        gateway: passes the calls on.
        model: the model for a call that names none.
    """
    blueprint = Blueprint("gateway", __name__)

    @blueprint.errorhandler(GatewayError)
    def refused(exc: GatewayError) -> Response:
        headers = {"Retry-After": str(RETRY_AFTER)} if exc.tell_again else NO_RETRY
        return answer(exc.to_json(), exc.status, headers)

    @blueprint.errorhandler(InvalidRequest)
    def invalid(exc: InvalidRequest) -> Response:
        return refused(GatewayError(400, "invalid_request", str(exc)))

    @blueprint.post("/v1/chat/completions")
    @needs(Scope.WORKER)
    def chat_completions() -> Response:
        raw = request.get_data()
        call = json_body()
        if not isinstance(call, dict) or not isinstance(call.get("messages"), list):
            raise InvalidRequest("the body must be a JSON object with a list called messages", field="messages")
        if call.get("model") is None:
            return _pass(gateway.forward(Call({**call, "model": model}, current_caller())))
        return _pass(gateway.forward(Call(call, current_caller(), raw)))

    @blueprint.get("/v1/models")
    @needs(Scope.WORKER)
    def models() -> Response:
        return _pass(gateway.forward(Call(None, current_caller())))

    return blueprint


def _pass(reply: Reply) -> Response:
    response = Response(reply.body, reply.status, dict(reply.headers))
    response.call_on_close(reply.close)
    return response
