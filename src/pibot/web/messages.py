"""Requests and responses as both apps have them: JSON in and out, one form of an error, waiting by ``Prefer``."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from typing import Any, Callable

from flask import Response, request

from pibot.contracts import Refusal
from pibot.errors import InvalidRequest


def answer(body: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    text = json.dumps(body, ensure_ascii=False, separators=(", ", ": ")) + "\n"
    return Response(
        text.encode("utf-8", "replace"),  # a lone surrogate, as a model's broken escape makes it, is no text
        status,
        headers,
        mimetype="application/json",
    )


def error(status: int, message: str) -> Response:
    """Answer with a refusal of one sentence."""
    return answer(Refusal(message).to_json(), status)


def json_body() -> Any:
    """The request's body, decoded as JSON whatever its Content-Type says.

    Raises:
        InvalidRequest: it is empty, not UTF-8 or not JSON.
    """
    data = request.get_data(cache=False)
    if not data.strip():
        raise InvalidRequest("the body is empty; send a JSON object")
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError as exc:
        raise InvalidRequest(f"the body is not UTF-8: {exc}") from exc
    except (ValueError, RecursionError) as exc:
        raise InvalidRequest(f"the body is not JSON: {exc}") from exc


_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])")


def wait_preference(maximum: float) -> float:
    """Seconds that the caller is willing to wait, by ``Prefer: wait=N`` (RFC 7240), at most ``maximum``; else 0."""
    match = _WAIT.search(request.environ.get("HTTP_PREFER", ""))
    return min(float(match.group(1)), maximum) if match else 0.0


class WaitingRoom:
    """How many requests may wait at once, so that some threads are always free to answer the others.

    Args:
        places: how many.
        each: how many of them one address may hold; all, where it is not given.
    """

    def __init__(self, places: int, each: int | None = None) -> None:
        self._free = places
        self._each = places if each is None else each
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    def wait(self, seconds: float, wait: Callable[[float], Any], *, who: str = "") -> Any:
        """Call ``wait(seconds)``, or ``wait(0)`` at once where the places are taken, as RFC 7240 allows.

        Args:
            who: whose request it is.
        """
        if seconds <= 0 or not self._enter(who):
            return wait(0.0)
        try:
            return wait(seconds)
        finally:
            self._leave(who)

    def _enter(self, who: str) -> bool:
        with self._lock:
            if self._free <= 0 or self._held[who] >= self._each:
                return False
            self._free -= 1
            self._held[who] += 1
            return True

    def _leave(self, who: str) -> None:
        with self._lock:
            self._free += 1
            self._held[who] -= 1
            if not self._held[who]:
                del self._held[who]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
