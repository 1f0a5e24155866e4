"""``pibot demo``: run a hub, three workers and the rehearsal model on this computer, with an example job, and leave
nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from pibot.cli.children import Child, Scratch
from pibot.cli.follow import counted, follow, step_line
from pibot.cli.hub_client import HubClient
from pibot.cli.terminal import say
from pibot.contracts import JsonObject
from pibot.errors import SandboxUnavailable, SettingsError
from pibot.llm_client.configuration import check
from pibot.rehearsal import MODEL_NAME
from pibot.sandbox.bubblewrap import Bubblewrap
from pibot.settings import Secret, Settings
from pibot.tool_registry import Policy, SkillLibrary

WORKERS = 3

INTERRUPTED = 130

# A closed terminal ends the demo as Ctrl-C does. SIGINT is set too, because a script's background jobs ignore it.
# The demo sends SIGALRM to itself, see _interrupt.
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)

INTERRUPT_AGAIN_SECONDS = 0.2

HUB_PATIENCE = 10.0
"""Seconds to wait for the hub. Short, since nothing restarts the demo's hub."""

PAGE = b"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A page for the PiBot demo</title></head>
<body><p>The PiBot demo serves this page from your own computer.</p></body></html>
"""


def run_demo(settings: Settings, *, once: bool) -> int:
    """Run the demo until Ctrl-C, or until its job has ended.

    Args:
        settings: give the model, the sandbox and ``PIBOT_DEMO_PORT``.
        once: end when the job has ended.

    Returns:
        The exit code: 0 if the job succeeded, 1 if not, 130 if the demo was interrupted before.

    Raises:
        SettingsError: a setting is wrong, or the port is taken.
    """
    for number in ENDING_SIGNALS:
        signal.signal(number, _interrupt)
    result: JsonObject | None = None
    with contextlib.ExitStack() as stack:
        try:
            scratch = stack.enter_context(Scratch("pibot-demo-"))
            result = _run(settings, scratch, stack)
            if not once:
                say("\nThe fleet stays up until you press Ctrl-C.")
                signal.pause()
        except KeyboardInterrupt:
            say("\nStopping the fleet …")
            if result is None:
                return INTERRUPTED
        finally:
            for number in ENDING_SIGNALS:  # a second Ctrl-C would leave processes behind
                signal.signal(number, signal.SIG_IGN)
        return 0 if result["success"] else 1


def _run(settings: Settings, scratch: Scratch, stack: contextlib.ExitStack) -> JsonObject:
    port = _free(settings.demo_port)
    approvals = _approvals(settings, scratch)
    model = _model(settings, scratch, stack)
    sandbox = _sandbox(settings, rehearsal=model["MODEL_NAME"] == MODEL_NAME)
    page = stack.enter_context(_page())
    key = secrets.token_urlsafe(24)
    common = {**model, "PIBOT_API_KEY": key, "PIBOT_SANDBOX": sandbox, "PIBOT_WEB_ALLOW": "127.0.0.1", **approvals}
    say(f"Starting {WORKERS} workers and a hub; the model is {model['MODEL_NAME']} …")
    workers = [
        stack.enter_context(
            Child(
                scratch,
                f"worker-{number}",
                ["worker", "--host", "127.0.0.1", "--port", "0", "--worker-id", f"worker-{number}"],
                common,
            )
        )
        for number in range(1, WORKERS + 1)
    ]
    addresses = {"PIBOT_HOT_CELSIUS": "1000", "PIBOT_MIN_MEMORY_MB": "0"}  # a desktop runs hot without harm
    for number, worker in enumerate(workers, 1):
        addresses[f"WORKER_{number}_IP"] = "127.0.0.1"
        addresses[f"WORKER_{number}_PORT"] = str(worker.wait_until_ready())
    hub = Child(scratch, "hub", ["hub", "--host", "127.0.0.1", "--port", str(port)], {**common, **addresses})
    stack.enter_context(hub)
    hub.wait_until_ready()

    client = HubClient(Settings(hub_url=f"http://127.0.0.1:{port}", api_key=Secret(key)))
    description = _job(page)
    say(f"\nThe job: {description}\n")
    job_id = client.post("/task", {"description": description})["job_id"]
    if settings.approve:
        say(f"Approve the calls that wait from another terminal:\n  {_command(port, key, 'approve', job_id)}\n")
    result = follow(client, job_id, say, patience=HUB_PATIENCE)
    _show(client.get(f"/task/{job_id}")["job"], result)
    say(f"\nDashboard: http://127.0.0.1:{port}/dashboard (log in with {key})")
    more = _command(port, key, "run", '"What is 6 * 7?"')
    say(f"Ask for more from another terminal:\n  {more}")
    return result


def _job(page: str) -> str:
    return (
        "Report the system's temperature, memory and load; "
        f"download {page} and return the title; "
        "run `uname -sm`; "
        "sleep for 1 seconds; "
        "calculate 6 * 7; "
        "then write the results to report.txt"
    )


def _show(job: JsonObject, result: JsonObject) -> None:
    say("\nWho did what:")
    for worker_id in sorted({step["worker_id"] for step in job["subtasks"] if step["worker_id"]}):
        say(f"  {worker_id}")
        for step in job["subtasks"]:
            if step["worker_id"] == worker_id:
                say(f"  {step_line(step)}")
    say(f"\nThe answer:\n{result['output']}")
    if result.get("error"):
        say(f"\nThe job ended as {result['status']}: {result['error']}")
    usage = result["usage"]
    say(f"\n{counted(usage['llm_calls'], 'model call')}, {counted(usage['total_tokens'], 'token')}.")


def _command(port: int, key: str, *words: str) -> str:
    return f"PIBOT_HUB_URL=http://127.0.0.1:{port} PIBOT_API_KEY={key} .venv/bin/pibot {' '.join(words)}"


# --- what it runs with ------------------------------------------------------


def _approvals(settings: Settings, scratch: Scratch) -> dict[str, str]:
    """Return the settings by which the owner's approval is needed in the demo too.

    Raises:
        SettingsError: ``PIBOT_APPROVE`` has a name that the demo's skills don't know.
    """
    if not settings.approve:
        return {}
    skills = Settings.load({}, scratch.path).skills_dir  # as the workers choose it
    SkillLibrary(skills, Policy(approve=frozenset(settings.approve))).check_policy()
    return {"PIBOT_APPROVE": ",".join(settings.approve), "PIBOT_APPROVAL_SECONDS": f"{settings.approval_seconds:g}"}


def _free(port: int) -> int:
    """Return ``port`` if the hub can listen on it.

    Raises:
        SettingsError: it is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as exc:
            other = f"make demo PIBOT_DEMO_PORT={port + 50}"
            raise SettingsError(
                f"the demo can't listen on port {port} ({exc.strerror}); choose another: {other}"
            ) from exc
    return port


def _model(settings: Settings, scratch: Scratch, stack: contextlib.ExitStack) -> dict[str, str]:
    """Return the settings of the owner's model if a key is set; otherwise start the rehearsal model.

    Raises:
        LLMConfigurationError: the owner's settings can't work.
    """
    llm = settings.llm
    if llm.api_key is not None:
        check(llm)
        say(f"The model: {llm.model} at {llm.base_url}")
        return {
            "VOLC_API_KEY": llm.api_key.reveal(),
            "VOLC_BASE_URL": llm.base_url,
            "MODEL_NAME": llm.model,
            "PIBOT_LLM_BACKEND": llm.backend,
            "PIBOT_LLM_EXTRA": json.dumps(llm.extra),
            "PIBOT_LLM_PROFILE": json.dumps(llm.profile),
            "PIBOT_LLM_PROXY": "none" if llm.proxy is None else llm.proxy.reveal(),
            **({} if llm.ca is None else {"PIBOT_LLM_CA": str(llm.ca.resolve())}),
        }
    say(f"No VOLC_API_KEY is set, so the model is {MODEL_NAME}: fixed rules, no AI.")
    rehearsal = stack.enter_context(Child(scratch, "model", ["rehearsal", "--port", "0"], {}))
    url = f"http://127.0.0.1:{rehearsal.wait_until_ready()}/v1"
    return {"VOLC_API_KEY": "rehearsal", "VOLC_BASE_URL": url, "MODEL_NAME": MODEL_NAME}


def _sandbox(settings: Settings, *, rehearsal: bool) -> str:
    """Choose the sandbox. Without bubblewrap, only the rehearsal model's fixed commands may run."""
    if settings.sandbox == "off":
        say("The sandbox: off, as PIBOT_SANDBOX says. Commands run with your rights.")
        return "off"
    try:
        asyncio.run(Bubblewrap().check())
    except SandboxUnavailable as exc:
        if rehearsal:
            say(f"The sandbox: off, since the rehearsal model only runs fixed commands ({exc}).")
            return "off"
        say(f"The sandbox: not available, so workers will refuse commands ({exc}).")
    else:
        say("The sandbox: bubblewrap.")
    return "bwrap"


@contextlib.contextmanager
def _page() -> Iterator[str]:
    """Serve the demo's page, and yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, format: str, *args: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Python drops an exception raised during a weak reference's callback, and imports use those: so raise it again.
    signal.setitimer(signal.ITIMER_REAL, INTERRUPT_AGAIN_SECONDS)
    raise KeyboardInterrupt
