"""What both apps need of requests and responses: JSON in and out, one form of an error, waits by ``Prefer``."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from typing import Any, Callable

from flask import Response, request

from pibot.contracts import Refusal, bounded_int
from pibot.errors import InvalidRequest


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Make a JSON response."""
    text = json.dumps(body, ensure_ascii=False, separators=(", ", ": ")) + "\n"
    return Response(
        text.encode("utf-8", "replace"),  # a model's broken escape can be a lone surrogate, which UTF-8 has not
        status,
        headers,
        mimetype="application/json",
    )


def error(status: int, message: str) -> Response:
    """Make the JSON response of a refusal in one sentence."""
    return answer(Refusal(message).to_json(), status)


def json_body() -> Any:
    """Decode the request's body as JSON, whatever its Content-Type says.

    Raises:
        InvalidRequest: the body is empty, not UTF-8 or not JSON.
    """
    data = request.get_data(cache=False)
    if not data.strip():
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        return json.loads(data.decode("utf-8"), parse_int=bounded_int, parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not UTF-8: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}") from exc


_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])")


def wait_preference(maximum: float) -> float:
    """Return the seconds of ``Prefer: wait=N`` (RFC 7240), at most ``maximum``; 0 without that header."""
    match = _WAIT.search(request.environ.get("HTTP_PREFER", ""))
    return min(float(match.group(1)), maximum) if match else 0.0


class WaitingRoom:
    """Limits how many requests wait at once, so that some threads are always free for other requests.

    Args:
        places: requests that may wait.
        each: how many of them may come from one network; None for all.
    """

    def __init__(self, places: int, each: int | None = None) -> None:
        self._free = places
        self._each = places if each is None else each
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def wait(self, seconds: float, wait: Callable[[float], Any], *, network: str = "") -> Any:
        """Call ``wait(seconds)``; with all places taken, ``wait(0)`` at once, as RFC 7240 allows.

        Args:
            network: where the request came from, by :func:`network_of`.
        """
        if seconds <= 0 or not self._enter(network):
            return wait(0.0)
        try:
            return wait(seconds)
        finally:
            self._leave(network)

    def _enter(self, network: str) -> bool:
        with self._lock:
            if self._free <= 0 or self._held[network] >= self._each:
                return False
            self._free -= 1
            self._held[network] += 1
            return True

    def _leave(self, network: str) -> None:
        with self._lock:
            self._free += 1
            self._held[network] -= 1
            if not self._held[network]:
                del self._held[network]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
