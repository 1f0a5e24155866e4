"""Ask the owner about a job's waiting tool calls, and send the decisions to the hub."""

from __future__ import annotations

from urllib.parse import quote

import click

from pibot.cli.hub_client import HubClient
from pibot.cli.terminal import say
from pibot.contracts import Decision, JsonObject, digest_of
from pibot.visible import exact, one_line, shown_call


def approve_calls(hub: HubClient, job: JsonObject, *, refuse: bool, reason: str, yes: bool) -> bool:
    """Show each waiting tool call, ask for a decision, and send it.

    Args:
        job: the job's record.
        refuse: refuse the calls instead of approving them.
        reason: of a refusal, for the model.
        yes: decide without asking.

    Returns:
        Whether any call was waiting.

    Raises:
        HubError: the hub refuses a decision, for example because the call no longer waits.
    """
    waiting = [approval for approval in job["approvals"] if approval["status"] == "waiting"]
    for approval in waiting:
        where = one_line(f"{approval['task_id']} on {approval['worker_id']}")
        say(f"{where} wants to call {one_line(exact(approval['tool']))}:")
        for line in shown_call(approval["arguments"]).split("\n"):
            say(f"    {line}")
        if not yes and not click.confirm("Refuse it?" if refuse else "Approve it?"):
            say("Left waiting.")
            continue
        # The digest of what we displayed; never trust the hub's own.
        decision = Decision(digest_of(approval["tool"], approval["arguments"]), not refuse, reason)
        hub.post(f"/approvals/{quote(approval['approval_id'], safe='')}", decision.to_json())
        say("Refused." if refuse else "Approved.")
    return bool(waiting)
