"""A model call that the gateway passed on, and sums of such calls, with their JSON forms."""

from __future__ import annotations

from dataclasses import dataclass, field

from pibot.contracts import JsonObject, Usage
from pibot.master_components.store.records import Lease

MASTER = "master"
"""The caller's name for the hub's own model calls, those of its planner."""


@dataclass(frozen=True)
class Spent:
    """One model call that the gateway passed on.

    Args:
        caller: a worker's name, :data:`MASTER`, or the name of a person's key.
        model: the model's name, one of those in the owner's settings.
        usage: the call's tokens.
        job_id: the job that the call was for; None if it was for none.
        lease: the lease that the calling worker held; None if it held none.
        estimated: the provider did not report the tokens, so they are estimated.
        cost: in the owner's currency; None if no model has a price.
    """

    caller: str
    model: str
    usage: Usage
    job_id: str | None = None
    lease: Lease | None = None
    estimated: bool = False
    cost: float | None = None


@dataclass(frozen=True)
class Spending:
    """A sum of model calls.

    Args:
        usage: tokens and calls.
        estimated: how many of the calls have estimated tokens.
        cost: in the owner's currency; None if no call had a price.
        caller, model: whose calls, and to which model; empty in a sum over several.
    """

    usage: Usage = field(default_factory=Usage)
    estimated: int = 0
    cost: float | None = None
    caller: str = ""
    model: str = ""

    def to_json(self) -> JsonObject:
        named = {"caller": self.caller, "model": self.model} if self.caller else {}
        return {**named, **self.usage.to_json(), "estimated_calls": self.estimated, "cost": rounded(self.cost)}


def total(parts: tuple[Spending, ...]) -> Spending:
    """Add several sums up to one."""
    costs = [part.cost for part in parts if part.cost is not None]
    return Spending(
        sum((part.usage for part in parts), Usage()),
        sum(part.estimated for part in parts),
        sum(costs) if costs else None,
    )


def rounded(cost: float | None) -> float | None:
    """Round a cost to millionths, less than one token of any model. That removes the noise of binary fractions."""
    return None if cost is None else round(cost, 6)
