"""Ask a provider in the way it wants, and learn that way from what it refuses.

Both the worker's client and the hub's gateway send their requests through an :class:`Adapter`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Callable, TypeVar

from pibot.contracts import JsonObject
from pibot.llm_client.backend import HttpAnswer
from pibot.llm_client.configuration import Endpoint
from pibot.llm_client.profiles import ProviderProfile
from pibot.llm_client.refusal import is_refusal
from pibot.llm_client.shaping import shape
from pibot.logs import event

if TYPE_CHECKING:
    from pibot.llm_client.mends import Mend

T = TypeVar("T")

MAX_ASKED = 8
"""Requests for one call at most: the first, and those in other forms."""

MAX_MODELS = 64
"""Models of one provider whose ways are remembered."""

log = logging.getLogger(__name__)


# docs/decisions.md, D195, D196
class Adapter:
    """Writes the requests for one provider, and remembers for each of its models what it refused.

    Args:
        endpoint: where the provider is, its profile, and the owner's further fields.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._learnt: dict[str, ProviderProfile] = {}

    def profile(self, model: str | None = None) -> ProviderProfile:
        """Return what is known of a model by now; None for the endpoint's own."""
        name = self._endpoint.model if model is None else model
        return self._learnt.get(name) or self._endpoint.profile_of(name)

    async def ask(
        self,
        body: JsonObject,
        send: Callable[[JsonObject, ProviderProfile], Awaitable[T]],
        http: Callable[[T], HttpAnswer],
    ) -> T:
        """Return the answer to a request, asked in other forms where the provider refuses it and says why.

        Args:
            body: the request in the protocol's form.
            send: sends a request as it is.
            http: returns the HTTP answer in what ``send`` returned.
        """
        named = body.get("model")
        model = named if isinstance(named, str) else self._endpoint.model
        profile = self.profile(model)
        sent = shape(profile, body, self._endpoint.extra)
        answer = outcome = await send(sent, profile)
        changes: tuple[str, ...] = ()
        ways: list[tuple[Mend, tuple[str, ...]]] = []  # the likeliest last, each with the changes before it
        asked = [(sent, profile.prefix)]
        texts: set[bytes] = set()
        while is_refusal(http(answer)) and len(asked) < MAX_ASKED:
            from pibot.llm_client import mends  # only where it is needed: its patterns take memory

            text = http(answer).body
            if text not in texts:  # else the last change was not what the provider wants
                texts.add(text)
                found = list(mends.diagnose(profile, sent, http(answer)))
                ways += [(mend, changes) for mend in reversed(found)]
                outcome = outcome if found else answer
            because = self._endpoint.redactor.quote(text.decode("utf-8", "replace"))
            while ways:
                mend, before = ways.pop()
                profile, changes = mend.profile, (*before, mend.change)
                sent = shape(profile, body, self._endpoint.extra)
                if (sent, profile.prefix) not in asked:
                    break
            else:
                break
            asked.append((sent, profile.prefix))
            answer = await send(sent, profile)
            if not is_refusal(http(answer)):
                if http(answer).success:
                    self._remember(model, profile, changes, because)
                return answer
        return outcome

    def _remember(self, model: str, profile: ProviderProfile, changes: tuple[str, ...], because: str) -> None:
        self._learnt[model] = profile
        if len(self._learnt) > MAX_MODELS:
            del self._learnt[next(iter(self._learnt))]
        event(
            log,
            "provider_mended",
            level=logging.WARNING,
            at=self._endpoint.shown,
            model=model,
            change="; ".join(changes),
            because=because,
        )
