"""Shows the calls of a job that wait for the owner, asks, and sends what was decided of what was shown."""

from __future__ import annotations

from urllib.parse import quote

import click

from pibot.cli.follow import printable
from pibot.cli.hub_client import HubClient
from pibot.contracts import Decision, JsonObject, digest_of, shown_call


def approve_calls(hub: HubClient, job: JsonObject, *, refuse: bool, reason: str, yes: bool) -> bool:
    """Ask about each call that waits.

    Args:
        job: its record.
        refuse: refuse what waits instead of approving it.
        reason: why not.
        yes: don't ask.

    Returns:
        Whether any waits.

    Raises:
        HubError: the hub refuses, as where a call waits no more.
    """
    waiting = [approval for approval in job["approvals"] if approval["status"] == "waiting"]
    for approval in waiting:
        click.echo(f"{approval['task_id']} on {approval['worker_id']} wants to call {printable(approval['tool'])}:")
        for line in shown_call(approval["arguments"]).split("\n"):
            click.echo(f"    {line}")
        if not yes and not click.confirm("Refuse it?" if refuse else "Approve it?"):
            click.echo("Left waiting.")
            continue
        # Of what was shown here, and not what the hub says that its digest is.
        decision = Decision(digest_of(approval["tool"], approval["arguments"]), not refuse, reason)
        hub.post(f"/approvals/{quote(approval['approval_id'], safe='')}", decision.to_json())
        click.echo("Refused." if refuse else "Approved.")
    return bool(waiting)
