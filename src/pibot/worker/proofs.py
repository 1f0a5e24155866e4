"""Answers the hub that checks this worker's address, while this worker registers there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pibot.contracts.proofs import is_random_id, new_random_id, proof_of
from pibot.settings import Settings

MAX_ANSWERS = 3
"""Proofs for one registration: the hub needs one."""


class AddressProofs:
    """Gives proofs of this worker's token for the registration that is under way, and no others.

    Its methods may be called from any thread.
    """

    def __init__(self, settings: Settings) -> None:
        self._worker_id = settings.worker_id
        self._key = settings.api_key
        self._lock = threading.Lock()
        self._join: str | None = None
        self._answers = 0

    @contextmanager
    def registering(self) -> Iterator[str]:
        """Begin a registration, and end it with the block. Yields its join id."""
        join = new_random_id()
        with self._lock:
            self._join, self._answers = join, 0
        try:
            yield join
        finally:
            with self._lock:
                self._join = None

    def answer(self, join: str | None, nonce: str | None, host: str, scheme: str) -> str | None:
        """Return the proof; None if no such registration is under way.

        Args:
            host: the request's ``Host``.
            scheme: ``http`` or ``https``.
        """
        if join is None or nonce is None or not is_random_id(nonce) or self._key is None:
            return None
        with self._lock:
            if join != self._join or self._answers >= MAX_ANSWERS:
                return None
            self._answers += 1
        address = host if re.search(r":\d+\Z", host) else f"{host}:{443 if scheme == 'https' else 80}"
        return proof_of(self._key.reveal(), join=join, nonce=nonce, worker_id=self._worker_id, address=address)
