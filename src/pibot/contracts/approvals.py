"""Tool calls that need the owner's approval, and the owner's decisions."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pibot.contracts.basics import JsonObject
from pibot.contracts.reading import MAX_TIME, count, lenient, number, strict, text
from pibot.contracts.validation import valid_id
from pibot.errors import ContractError, InvalidRequest

log = logging.getLogger("pibot.approvals")

MAX_REASON_CHARS = 500
"""Characters of the reason that the owner may give the model."""

MAX_TOOL_CHARS = 200

MAX_CALLS_AT_ONCE = 32
"""Calls of one task that may wait for the owner at the same time."""

MAX_CALLS_ASKED = 256
"""Calls of one task that may need the owner's approval, one after another."""

MAX_ASKED_CHARS = 1_000_000
"""Characters of the arguments of all of them, as JSON. The hub stores each call, and shows all of a job on one page."""

MAX_WAITED = 1e9
"""Seconds that a task may have waited for the owner: 30 years."""


# docs/decisions.md, D54
def digest_of(tool: str, arguments: Mapping[str, Any]) -> str:
    """Return the SHA-256 digest of a tool call: the same on every machine, and different for every other call."""
    text = json.dumps([tool, arguments], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


@dataclass(frozen=True)
class ApprovalRequest:
    """A tool call that waits for approval.

    Args:
        approval_id: its id, unique only within its task.
        tool: the tool's name.
        arguments: the arguments of the call.
        digest: the digest of both; see :func:`digest_of`.
        asked_at: seconds since the epoch, by the worker's clock.
    """

    approval_id: str
    tool: str
    arguments: Mapping[str, Any]
    digest: str
    asked_at: float

    def to_json(self) -> JsonObject:
        return {
            "approval_id": self.approval_id,
            "tool": self.tool,
            "arguments": dict(self.arguments),
            "digest": self.digest,
            "asked_at": self.asked_at,
        }

    @classmethod
    def from_json(cls, data: object) -> ApprovalRequest:
        """Read one call from a worker's answer.

        Raises:
            ContractError: a field is invalid, or the digest is not that of the call, so the worker might run something
                else than the owner is shown.
        """
        if not isinstance(data, dict) or not isinstance(data.get("arguments"), dict):
            raise ContractError("an approval must be a JSON object with the call's arguments")
        tool = strict(data, "tool", lambda value: text(value, MAX_TOOL_CHARS))
        asked_at = strict(data, "asked_at", lambda value: number(value, 0, MAX_TIME))
        if data.get("digest") != digest_of(tool, data["arguments"]):
            raise ContractError("the approval's digest does not match its call")
        try:
            approval_id = valid_id(data.get("approval_id"), "approval_id")
        except InvalidRequest as exc:
            raise ContractError(str(exc)) from exc
        return cls(approval_id, tool, data["arguments"], data["digest"], asked_at)


@dataclass(frozen=True)
class PendingCalls:
    """The calls of a running task that need the owner's approval, as a worker reports them in a 202.

    Args:
        asked: how many calls of the task have waited for approval so far, the waiting ones included.
        waited: seconds for which the task has waited for the owner.
        calls: the calls that wait now.
    """

    asked: int = 0
    waited: float = 0.0
    calls: tuple[ApprovalRequest, ...] = ()

    def to_json(self) -> JsonObject:
        return {
            "approvals": [call.to_json() for call in self.calls],
            "approvals_asked": self.asked,
            "waited_seconds": round(self.waited, 3),
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> PendingCalls:
        """Read a worker's 202 leniently.

        A call whose digest does not match its content is left out and logged: nobody may approve it.

        Raises:
            ContractError: more calls are said to wait, or to have waited, than a task can have.
        """
        rows = body.get("approvals")
        rows = rows if isinstance(rows, list) else []
        if len(rows) > MAX_CALLS_AT_ONCE:
            raise ContractError(f"{len(rows)} calls wait for approval, a task can have {MAX_CALLS_AT_ONCE}")
        calls = []
        for row in rows:
            try:
                calls.append(ApprovalRequest.from_json(row))
            except ContractError as exc:
                log.warning("approval_unusable error=%s", exc)
        if len({call.approval_id for call in calls}) < len(calls):
            raise ContractError("two calls that wait for approval have the same id")
        return cls(
            lenient(body, "approvals_asked", lambda value: count(value, MAX_CALLS_ASKED)) or 0,
            lenient(body, "waited_seconds", lambda value: number(value, 0, MAX_WAITED)) or 0.0,
            tuple(calls),
        )


@dataclass(frozen=True)
class Decision:
    """The owner's decision on a tool call.

    Args:
        digest: the digest of the call as the owner was shown it.
        approved: whether the worker may run it.
        reason: why not, for the model; may be empty.
    """

    digest: str
    approved: bool
    reason: str = ""

    @classmethod
    def from_json(cls, data: object) -> Decision:
        """Read the body of a decision.

        Raises:
            InvalidRequest: a field is invalid; it is named.
        """
        if not isinstance(data, dict):
            raise InvalidRequest("the body must be a JSON object with digest and approved")
        unknown = sorted(set(data) - {"digest", "approved", "reason"})
        if unknown:
            raise InvalidRequest(
                f"unknown field {unknown[0]!r}; the fields are digest, approved and reason", field=unknown[0]
            )
        digest, approved, reason = data.get("digest"), data.get("approved"), data.get("reason", "")
        if not isinstance(digest, str) or not digest:
            raise InvalidRequest("digest must be that of the call as it was shown", field="digest")
        if not isinstance(approved, bool):
            raise InvalidRequest("approved must be true or false", field="approved")
        if not isinstance(reason, str) or len(reason) > MAX_REASON_CHARS:
            raise InvalidRequest(f"reason must be a text of up to {MAX_REASON_CHARS} characters", field="reason")
        return cls(digest, approved, reason)

    def to_json(self) -> JsonObject:
        return {"digest": self.digest, "approved": self.approved, "reason": self.reason}
