"""What both Flask apps share: keys and sessions, JSON in and out, rate limits, and the HTTP server.

Start reading at :mod:`pibot.web.app`.
"""

from __future__ import annotations

from pibot.web.app import MAX_BODY, create_app, pibot_error
from pibot.web.guard import KeyGuesses, LogIn, blocked, check_form_token, cookie_name, current_session
from pibot.web.keys import KeyRing, current_caller, needs
from pibot.web.limits import Buckets
from pibot.web.messages import WaitingRoom, answer, error, json_body, wait_preference
from pibot.web.server.channel import ConnectionLimits
from pibot.web.server.hang_ups import HANG_UP
from pibot.web.server.networks import network_of
from pibot.web.server.server import REQUEST_TIMEOUT, Server, serve
from pibot.web.sessions import LIFETIME, Session, Sessions

__all__ = [
    "HANG_UP",
    "LIFETIME",
    "MAX_BODY",
    "REQUEST_TIMEOUT",
    "Buckets",
    "ConnectionLimits",
    "KeyGuesses",
    "KeyRing",
    "LogIn",
    "Server",
    "Session",
    "Sessions",
    "WaitingRoom",
    "answer",
    "blocked",
    "check_form_token",
    "cookie_name",
    "create_app",
    "current_caller",
    "current_session",
    "error",
    "json_body",
    "needs",
    "network_of",
    "pibot_error",
    "serve",
    "wait_preference",
]
