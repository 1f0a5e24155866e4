"""Report what the gateway sees of the provider, for dispatch, which holds work back while the provider is away."""

from __future__ import annotations

from typing import Protocol


class ProviderWitness(Protocol):
    """Learns from the gateway whether the provider answers. Called in the gateway's event loop."""

    def provider_away(self, reason: str, *, rest: float | None, caller: str | None) -> None:
        """Note that no provider answered a call.

        Args:
            reason: why, as a sentence.
            rest: seconds for which the provider asked to be left alone, if it did.
            caller: whose call it was, if the call itself may be the reason.
        """
        ...

    def provider_answered(self, seconds: float) -> None:
        """Note that a provider answered a call.

        Args:
            seconds: how long ago it was asked.
        """
        ...


class NoWitness(ProviderWitness):
    """Ignores what the gateway sees."""

    def provider_away(self, reason: str, *, rest: float | None, caller: str | None) -> None:
        return None

    def provider_answered(self, seconds: float) -> None:
        return None
