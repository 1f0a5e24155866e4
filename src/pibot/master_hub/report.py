"""Report tokens and costs to the owner: by job, by day, and since the start."""

from __future__ import annotations

from pibot.contracts import JsonObject
from pibot.master_components.store.accounts import Accounts
from pibot.master_components.store.spending import Spending, total
from pibot.master_hub.gateway.ledger import Ledger
from pibot.settings import GatewaySettings


class SpendingReport:
    """Sums up the model calls of the fleet. Methods block for as long as the disk takes.

    Args:
        accounts: the model calls in the job database.
        ledger: the model calls since the hub was started.
        settings: the budgets and the currency.
    """

    def __init__(self, accounts: Accounts, ledger: Ledger, settings: GatewaySettings) -> None:
        self._accounts = accounts
        self._ledger = ledger
        self._settings = settings

    def of_job(self, job_id: str) -> tuple[Spending, ...]:
        """Return a job's model calls, by caller and model."""
        return self._accounts.of_job(job_id)

    def today(self) -> Spending:
        """Return the sum of today's model calls (UTC)."""
        return total(self._accounts.of_day())

    @property
    def since_start(self) -> tuple[Spending, ...]:
        """The model calls since the hub was started, by caller and model."""
        return self._ledger.since_start

    @property
    def currency(self) -> str:
        """The currency of costs; empty if not set."""
        return self._settings.currency

    def left(self, today: Spending) -> int | None:
        """Return the tokens left of the day's budget; None without a budget."""
        budget = self._settings.day_tokens
        return None if budget is None else max(0, budget - today.usage.total_tokens)

    def to_json(self, *, days: int) -> JsonObject:
        """Return today's model calls by caller and model, and the sums of the last ``days`` days."""
        rows = self._accounts.of_day()
        today = total(rows)
        return {
            "currency": self.currency,
            "today": {
                "day": self._accounts.today(),
                **today.to_json(),
                "budget": self._settings.day_tokens,
                "left": self.left(today),
                "by": [row.to_json() for row in rows],
            },
            "job_budget": self._settings.job_tokens,
            "days": [{"day": day, **sums.to_json()} for day, sums in self._accounts.days(days)],
        }

    def in_words(self, today: Spending) -> str:
        """Return today's sum in a few words; empty without model calls and without a budget."""
        left = self.left(today)
        if not today.usage.llm_calls and left is None:
            return ""
        parts = [f"{today.usage.total_tokens:,} tokens today", cost_in_words(today.cost, self.currency)]
        if left is not None:
            parts.append(f"{left:,} of {self._settings.day_tokens:,} left")
        return ", ".join(filter(None, parts))


def cost_in_words(cost: float | None, currency: str) -> str:
    """Return a cost as ``0.0012 CNY``; empty for None, which means no price is known."""
    if cost is None:
        return ""
    shown = f"{cost:,.2f}" if cost >= 10 else f"{cost:.4f}"
    return f"{shown} {currency}".strip() if currency else f"costs {shown}"
