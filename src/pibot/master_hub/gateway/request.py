"""Read what a caller asks of the model, and refuse what the owner has not chosen to pay for."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from pibot.contracts import JsonObject
from pibot.errors import InvalidRequest
from pibot.master_hub.gateway import errors

_READ_HERE = frozenset({"messages", "model", "n", "stream", "stream_options"})
"""The fields that the gateway decides by."""


# docs/decisions.md, D64
def read_request(data: Any, default: str, models: Collection[str]) -> JsonObject:
    """Check the body of a chat completion, and return it with its model.

    Args:
        data: the body, decoded.
        default: the model of a call that names none.
        models: the names of the models that may be asked.

    Raises:
        InvalidRequest: it is no chat completion, or asks for more than one answer.
        GatewayError: it asks for another model.
    """
    if not isinstance(data, dict) or not isinstance(data.get("messages"), list):
        raise InvalidRequest("the body must be a JSON object with a list called messages", field="messages")
    for name in data:
        if name not in _READ_HERE and name.casefold() in _READ_HERE:
            # Some providers ignore case, and would see another call than the one that is checked here.
            raise InvalidRequest(f"the field {name!r} must be written {name.casefold()!r}", field=name.casefold())
    model = default if data.get("model") is None else data["model"]
    if not isinstance(model, str) or model not in models:
        raise errors.unknown_model(
            f"the model {_shown(model)} is not one of this fleet's ({', '.join(sorted(models))}); name one of these, "
            "or add it to PIBOT_MODELS on the master"
        )
    n = data.get("n")
    if n is not None and (n != 1 or type(n) is not int):
        raise InvalidRequest(f"n must be 1, not {_shown(n)}: send one call for each answer", field="n")
    return {**data, "model": model}


def encode(body: JsonObject) -> bytes:
    """Return the body of a request to a provider.

    The caller's own bytes are not passed on: where they name a field twice, a provider might take the one that was not
    checked.

    Raises:
        InvalidRequest: it holds a number or nesting that is not for JSON.
    """
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}") from exc
    try:
        return text.encode()
    except UnicodeEncodeError:  # half a surrogate, which only JSON's escapes can write
        return json.dumps(body).encode()


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:60] + "…"
