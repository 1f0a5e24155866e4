"""What the gateway passed on to models: one call, and sums of calls, with their JSON forms."""

from __future__ import annotations

from dataclasses import dataclass, field

from pibot.contracts import JsonObject, Usage
from pibot.master_components.store.records import Lease

MASTER = "master"
"""Who asks where the hub itself does, for its planner."""


@dataclass(frozen=True)
class Spent:
    """One call that was passed on.

    Args:
        caller: a worker's name, :data:`MASTER`, or the name of a person's key.
        model: the model's name, one of those that the owner has set.
        usage: its tokens.
        job_id: the job that it was for; None where it was for none.
        lease: the lease that its worker had; None where it had none.
        estimated: its tokens were not told by the provider.
        cost: in the owner's currency; None where the model has no price.
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
    """Calls summed up.

    Args:
        usage: tokens and calls.
        estimated: of the calls, how many's tokens are estimated.
        cost: None where no call had a price.
        caller, model: whose, and of which model; empty in a sum over several.
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
    """All of them as one."""
    costs = [part.cost for part in parts if part.cost is not None]
    return Spending(
        sum((part.usage for part in parts), Usage()),
        sum(part.estimated for part in parts),
        sum(costs) if costs else None,
    )


def rounded(cost: float | None) -> float | None:
    """A cost without the noise of adding binary fractions: millionths are less than a token of any model."""
    return None if cost is None else round(cost, 6)
