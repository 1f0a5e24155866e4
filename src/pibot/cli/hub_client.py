"""The hub's API for the command line: requests with the standard library, and errors of one sentence."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from dataclasses import dataclass
from typing import Callable
from urllib.parse import SplitResult, urlsplit

from pibot.contracts import JsonObject, Refusal
from pibot.errors import PibotError
from pibot.settings import Settings
from pibot.tls import client_tls, connect, problem_of

UNREACHABLE = 3
REFUSED = 4
HUB_ERROR = 5

TIMEOUT = 30.0
"""Seconds to wait for an answer, beyond what the hub was asked to wait."""

PATIENCE = 120
"""Seconds that a command waits in total when the hub answers 429."""


class HubError(PibotError):
    """The hub can't be reached or refuses the request; ``exit_code`` becomes the command's."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True)
class HubClient:
    """Send requests to one hub.

    Args:
        settings: the hub's address (``PIBOT_HUB_URL``), its key (``PIBOT_API_KEY``) and the TLS files.
        sleep: waits for a number of seconds.
    """

    settings: Settings
    sleep: Callable[[float], None] = time.sleep

    def get(self, path: str, *, wait: int = 0) -> JsonObject:
        """Send ``GET path`` and return the JSON; see :meth:`request`."""
        return self.request("GET", path, wait=wait)[1]

    def post(self, path: str, body: JsonObject | None = None) -> JsonObject:
        """Send ``POST path`` and return the JSON; see :meth:`request`."""
        return self.request("POST", path, body)[1]

    def request(
        self, method: str, path: str, body: JsonObject | None = None, *, wait: int = 0
    ) -> tuple[int, JsonObject]:
        """Send one request.

        Args:
            wait: seconds that the hub may take to wait for a result.

        Returns:
            The status, 200 or 202, and the JSON.

        Raises:
            HubError: the hub can't be reached, or answers anything else. The message says what to do.
        """
        status, raw = self._ask_until_it_is_time(method, path, body, wait)
        try:
            answer = json.loads(raw)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise HubError(
                f"{self.settings.hub_url} is no PiBot hub; set PIBOT_HUB_URL to the hub's address", HUB_ERROR
            )
        if status in (200, 202):
            return status, answer
        message = Refusal.from_json(answer).error or f"the hub answered {status}"
        if status == 401:
            raise HubError("the hub requires its key: set PIBOT_API_KEY to it, in the environment or in .env", REFUSED)
        if status in (429, 503):  # asked too often, stopping, or its disk is full: a later try may work
            raise HubError(message, UNREACHABLE)
        raise HubError(message, REFUSED if status == 403 else HUB_ERROR)

    def _ask_until_it_is_time(self, method: str, path: str, body: JsonObject | None, wait: int) -> tuple[int, bytes]:
        """Repeat the request when the hub answers 429 with a time; it has not begun the work then."""
        patience = PATIENCE
        while True:
            status, raw, seconds = self._ask(method, path, body, wait)
            if status != 429 or not 0 < seconds <= patience:
                return status, raw
            patience -= seconds
            self.sleep(seconds)

    def _ask(self, method: str, path: str, body: JsonObject | None, wait: int) -> tuple[int, bytes, int]:
        url = self.settings.hub_url
        parts = _split(url)
        if parts is None:
            raise HubError(f"PIBOT_HUB_URL must be like http://192.168.10.113:5000, not {url!r}", 2)
        connection = connect(parts, client_tls(self.settings), wait + TIMEOUT)
        try:
            connection.request(method, parts.path.rstrip("/") + path, self._body(body), self._headers(wait))
            response = connection.getresponse()
            after = response.getheader("Retry-After", "")
            return response.status, response.read(), int(after) if re.fullmatch(r"\d{1,6}", after, re.ASCII) else 0
        except (OSError, http.client.HTTPException, socket.timeout) as exc:
            if certificate := problem_of(exc):
                raise HubError(f"the hub at {url} can't be trusted: {certificate}", UNREACHABLE) from exc
            raise HubError(
                f"no hub at {url} ({exc or type(exc).__name__}); start one with 'pibot hub', "
                "or set PIBOT_HUB_URL to where it is",
                UNREACHABLE,
            ) from exc
        finally:
            connection.close()

    @staticmethod
    def _body(body: JsonObject | None) -> bytes | None:
        return None if body is None else json.dumps(body).encode()

    def _headers(self, wait: int) -> dict[str, str | bytes]:
        headers: dict[str, str | bytes] = {"Content-Type": "application/json"}
        if self.settings.api_key is not None:
            headers["Authorization"] = b"Bearer " + self.settings.api_key.reveal().encode()
        if wait:
            headers["Prefer"] = f"wait={wait}"
        return headers


def _split(url: str) -> SplitResult | None:
    """Return the parts of an HTTP address, or None if it is not one."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # an unclosed bracket, or a port beyond 65535
        return None
    return parts if usable else None
