"""What both Flask apps share: the key, JSON in and out, limits, and the cheroot server with its graceful stop."""

from __future__ import annotations

from pibot.web.app import MAX_BODY, create_app, retry_after
from pibot.web.channel import Limits
from pibot.web.keys import KeyRing, current_caller, needs
from pibot.web.messages import WaitingRoom, answer, error, json_body, wait_preference
from pibot.web.server import REQUEST_TIMEOUT, Server, serve

__all__ = [
    "MAX_BODY",
    "REQUEST_TIMEOUT",
    "KeyRing",
    "Limits",
    "Server",
    "WaitingRoom",
    "answer",
    "create_app",
    "current_caller",
    "error",
    "json_body",
    "needs",
    "retry_after",
    "serve",
    "wait_preference",
]
