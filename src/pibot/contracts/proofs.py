"""How a worker that registers shows that it is at its address, without being given its token.

The worker sends a random ``join`` id with its registration. The hub asks the registered address for its health, without
a key, with that id and a nonce of its own, and finds a proof of both in the answer's head. Only a worker that has just
sent this id, and knows its token, can give it; nobody else learns anything from which a weak token could be guessed,
since nobody else has the id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

JOIN_HEADER = "Pibot-Join"
"""The header for the join id: of the worker's ``POST /workers``, and of the hub's ``GET /health`` in return."""

NONCE_HEADER = "Pibot-Nonce"
"""The header of that ``GET /health`` for the nonce."""

PROOF_HEADER = "Pibot-Proof"
"""The header of its answer for the proof."""

_ID = re.compile(r"[0-9a-f]{32}\Z")


def new_random_id() -> str:
    """Return a new join id, or a nonce."""
    return secrets.token_hex(16)


def is_random_id(value: object) -> bool:
    """Return whether ``value`` has the form of a join id, or a nonce."""
    return isinstance(value, str) and _ID.match(value) is not None


def proof_of(key: str, *, join: str, nonce: str, worker_id: str, address: str) -> str:
    """Return the proof: 64 hexadecimal digits that are good for nothing else.

    Args:
        key: the worker's token.
        address: the host and port that the hub asks, as in the request's ``Host``.
    """
    told = "\n".join(("pibot worker address", join, nonce, worker_id, address.lower()))
    return hmac.new(key.encode(), told.encode(), hashlib.sha256).hexdigest()
