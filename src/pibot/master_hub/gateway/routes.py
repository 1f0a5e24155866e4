"""The gateway's routes: ``/v1/chat/completions`` and ``/v1/models`` of the OpenAI protocol.

They let a worker run without the provider's key: its ``VOLC_BASE_URL`` is the master's address.
"""

from __future__ import annotations

from collections.abc import Collection

from flask import Blueprint, Response, request

from pibot.contracts import Scope
from pibot.errors import InvalidRequest
from pibot.master_hub.gateway.errors import GatewayError
from pibot.master_hub.gateway.gateway import Gateway, Reply
from pibot.master_hub.gateway.model_call import Client, ModelCall
from pibot.master_hub.gateway.request import encode, read_request
from pibot.web import HANG_UP, answer, current_caller, json_body, needs


def create_gateway_blueprint(gateway: Gateway, model: str, models: Collection[str]) -> Blueprint:
    """Create the gateway's routes.

    Args:
        gateway: passes the calls on.
        model: used for a call that names no model.
        models: the names of the models that may be asked.
    """
    blueprint = Blueprint("gateway", __name__)

    @blueprint.errorhandler(GatewayError)
    def refused(exc: GatewayError) -> Response:
        return answer(exc.to_json(), exc.status, exc.headers)

    @blueprint.errorhandler(InvalidRequest)
    def invalid(exc: InvalidRequest) -> Response:
        return refused(GatewayError(400, "invalid_request", str(exc)))

    @blueprint.post("/v1/chat/completions")
    @needs(Scope.WORKER)
    def chat_completions() -> Response:
        body = read_request(json_body(), model, models)
        return _respond(gateway.forward(ModelCall(body, current_caller(), encode(body), client=_client())))

    @blueprint.get("/v1/models")
    @needs(Scope.WORKER)
    def list_models() -> Response:
        return _respond(gateway.forward(ModelCall(None, current_caller(), client=_client())))

    return blueprint


def _client() -> Client:
    return Client(request.environ.get(HANG_UP))


def _respond(reply: Reply) -> Response:
    response = Response(reply.body, reply.status, dict(reply.headers))
    response.call_on_close(reply.close)
    return response
