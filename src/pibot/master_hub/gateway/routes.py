"""The gateway's routes: ``/v1/chat/completions`` and ``/v1/models`` of the OpenAI protocol.

They let a worker run without the provider's key: its ``VOLC_BASE_URL`` is the master's address.
"""

from __future__ import annotations

from flask import Blueprint, Response, request

from pibot.contracts import Scope
from pibot.errors import InvalidRequest
from pibot.master_hub.gateway.errors import GatewayError
from pibot.master_hub.gateway.gateway import Gateway, Reply
from pibot.master_hub.gateway.model_call import Client, ModelCall
from pibot.web import HANG_UP, answer, current_caller, json_body, needs


def create_gateway_blueprint(gateway: Gateway, model: str) -> Blueprint:
    """Create the gateway's routes.

    Args:
        gateway: passes the calls on.
        model: used for a call that names no model.
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
        raw = request.get_data()
        body = json_body()
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            raise InvalidRequest("the body must be a JSON object with a list called messages", field="messages")
        if body.get("model") is None:
            return _respond(gateway.forward(ModelCall({**body, "model": model}, current_caller(), client=_client())))
        return _respond(gateway.forward(ModelCall(body, current_caller(), raw, client=_client())))

    @blueprint.get("/v1/models")
    @needs(Scope.WORKER)
    def models() -> Response:
        return _respond(gateway.forward(ModelCall(None, current_caller(), client=_client())))

    return blueprint


def _client() -> Client:
    return Client(request.environ.get(HANG_UP))


def _respond(reply: Reply) -> Response:
    response = Response(reply.body, reply.status, dict(reply.headers))
    response.call_on_close(reply.close)
    return response
