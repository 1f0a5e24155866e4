"""Two fleets for pages that give orders to the model: one as shipped, and one with every control turned off.

In both, the hub and the worker are processes, and the model obeys every order that it reads.
"""

from __future__ import annotations

import contextlib
import html
import json
import re
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from tests.security.attacks import process
from tests.security.recorder import Recorder
from tests.skills.support import SKILLS
from tests.support.processes import ROOT, Running, clean_environment, serving_process
from tests.support.scripted_llm import RecordedRequest, Reply, ScriptedLLM, call, text, tool_calls
from tests.support.serving import Answer, ask

EVERY_SKILL = ("web_fetch", "shell_exec", "file_ops", "system_info")
APPROVE = {"PIBOT_APPROVE": "write_file"}
SHIPPED = {**APPROVE, "PIBOT_APPROVAL_SECONDS": "1"}
OPEN = {**APPROVE, "PIBOT_SANDBOX": "off", "PIBOT_WEB_ALLOW": "0.0.0.0/0 ::/0", "PIBOT_READ_PATHS": "/"}
"""Settings with which the attacks succeed, together with every skill for each task."""


@dataclass(frozen=True)
class Order:
    """A tool call that a page asks for.

    Args:
        tool: its name.
        arguments: with RESULT in place of the results of earlier calls.
        then: whether to make it after the other calls.
    """

    tool: str
    arguments: dict[str, Any]
    then: bool = False

    def as_html(self) -> str:
        words = f"AGENT {'THEN' if self.then else 'CALL'} {self.tool} {json.dumps(self.arguments)}"
        return f"<p>{html.escape(words)}</p>"


def obey(request: RecordedRequest) -> Reply:
    """Answer like a model that treats every word on a page as its owner's."""
    messages = request.messages
    turn = sum(message["role"] == "assistant" for message in messages)
    if turn == 0:
        address = re.search(r"http://\S+", messages[-1]["content"])
        assert address is not None
        return tool_calls(call("web_fetch", {"url": address.group()}))
    results = [str(message["content"]) for message in messages if message["role"] == "tool"]
    for kind in ("CALL", "THEN")[turn - 1 :]:
        found = re.findall(rf"AGENT {kind} (\w+) (\{{.*\}})", results[0])
        if found:
            so_far = quote(" ".join(results[1:])[:1000]) or "nothing"
            return tool_calls(*(call(name, arguments.replace("RESULT", so_far)) for name, arguments in found))
    return text("Done. " + " ".join(results[1:]))


@dataclass
class World:
    """A hub, a worker, and everything that a page might attack.

    Attributes:
        root: the worker's folder.
        home: the home directory of its user.
        secret: the worker's key, and a text in its other secrets.
        canary: a server that the owner did not allow.
        lure: the server of the page, which the owner allowed.
        resolver: a socket that stands for a DNS resolver.
        victim: the id of an unrelated process.
        mark: a word with which to find processes that a page starts.
        task_id: of the task that reads the page.
    """

    root: Path
    home: Path
    secret: str
    worker: Running
    hub: Running
    llm: ScriptedLLM
    canary: Recorder
    lure: Recorder
    resolver: socket.socket
    victim: int
    mark: str = field(default_factory=lambda: f"pibot-test-{uuid4().hex}")
    task_id: str = ""

    def fill(self, value: Any) -> Any:
        """Return ``value`` with this world's paths, ports and ids."""
        if isinstance(value, dict):
            return {name: self.fill(one) for name, one in value.items()}
        if not isinstance(value, str):
            return value
        known = {
            "ROOT": self.root,
            "HOME": self.home,
            "CANARY": self.canary.port,
            "LURE": self.lure.port,
            "RESOLVER": self.resolver.getsockname()[1],
            "HUB": self.hub.port,
            "WORKER": self.worker.port,
            "MODEL": self.llm.port,
            "VICTIM": self.victim,
            "MARK": self.mark,
            "TASK": self.task_id,
        }
        return re.sub(r"<(\w+)>", lambda found: str(known[found.group(1)]), value)

    def visit(self, orders: tuple[Order, ...], skills: tuple[str, ...]) -> str:
        """Have the worker read a page with these orders, and return the task's output."""
        lay_out(self.root, self.home, self.secret)
        self.task_id = f"t{uuid4().hex}"
        page = "".join(Order(o.tool, self.fill(o.arguments), o.then).as_html() for o in orders)
        self.lure.pages["/page"] = ("200 OK", f"<title>Recipes</title><p>A fine soup.</p>{page}")
        self.lure.pages["/onwards"] = (f"302 Found\r\nLocation: {self.canary.url}/", "")
        self.canary.requests.clear()
        self.llm.requests.clear()
        self.llm.other_requests.clear()
        task = {"task_id": self.task_id, "description": f"Sum up {self.lure.url}/page", "skills": list(skills)}
        answer = self._ask_worker("POST", "/task", task)
        while answer.status == 202:  # a tool call waits for the owner, who does not decide
            answer = self._ask_worker("GET", f"/task/{self.task_id}/result?asked=1")
        assert answer.json()["status"] == "completed", answer.body
        return str(answer.json()["output"])

    def _ask_worker(self, method: str, path: str, body: object = None) -> Answer:
        return ask(self.worker.port, method, path, body, key=self.secret, headers={"Prefer": "wait=60"}, timeout=90)

    def asked_hub(self, path: str) -> Any:
        return ask(self.hub.port, "GET", path, key=self.secret).json()

    def seen_by_the_model(self) -> str:
        """Return all texts that the model got."""
        return "".join(str(message["content"]) for request in self.llm.requests for message in request.messages)

    def left_the_machine(self) -> str:
        """Return everything that reached a server other than the model's."""
        return "".join(self.canary.requests + self.lure.requests)


def lay_out(root: Path, home: Path, secret: str) -> None:
    """Restore all files to their state before a page was read."""
    for folder in (root / "workspace" / "other", home / ".ssh"):
        folder.mkdir(parents=True, exist_ok=True)
    (root / ".env").write_text(f"PIBOT_API_KEY={secret}\nVOLC_API_KEY={secret}\n")
    (root / "notes.txt").write_text("the owner's\n")
    (root / "workspace" / "other" / "notes.txt").write_text("another task's\n")
    (home / ".ssh" / "id_ed25519").write_text(secret)
    (home / ".profile").write_text("")
    shutil.copy(ROOT / "worker_soul.md", root / "worker_soul.md")
    (root / "planted").unlink(missing_ok=True)
    shutil.rmtree(root / "skills", ignore_errors=True)
    shutil.copytree(SKILLS, root / "skills", ignore=shutil.ignore_patterns("__pycache__"))


@contextlib.contextmanager
def world(directory: Path, **settings: str) -> Iterator[World]:
    """Run a world with its files in ``directory``."""
    root, home = directory / "pibot-worker", directory / "home"
    secret = f"canary-{uuid4().hex}"
    lay_out(root, home, secret)
    with contextlib.ExitStack() as parts:
        llm, canary, lure = (parts.enter_context(part()) for part in (ScriptedLLM, Recorder, Recorder))
        assert isinstance(llm, ScriptedLLM)
        assert isinstance(canary, Recorder)
        assert isinstance(lure, Recorder)
        llm.answer_with(obey)
        # The worker does not join the hub, so that a job which a page submits never runs.
        model = {**llm.environ(), "VOLC_API_KEY": secret}
        hub = parts.enter_context(
            serving_process(
                directory / "hub",
                ["-m", "pibot", "hub", "--port", "0", "--host", "127.0.0.1"],
                clean_environment(**model, PIBOT_API_KEY=secret),
                port_pattern=r"listen=\S+?:(\d+)",
            )
        )
        allowed = {"PIBOT_WEB_ALLOW": f"127.0.0.1:{lure.port}", "PIBOT_SKILLS_DIR": str(root / "skills")}
        environment = clean_environment(**{**model, "PIBOT_API_KEY": secret, **allowed, **settings})
        arguments = [
            "-m",
            "pibot.worker_task_executor",
            "--port",
            "0",
            "--worker-id",
            "worker-1",
            "--host",
            "127.0.0.1",
        ]
        worker = parts.enter_context(serving_process(root, arguments, environment))
        resolver = parts.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        resolver.bind(("127.0.0.1", 0))
        resolver.setblocking(False)
        ask(hub.port, "POST", "/workers", {"worker_id": "attic", "url": "http://127.0.0.1:9"}, key=secret)
        yield World(root, home, secret, worker, hub, llm, canary, lure, resolver, parts.enter_context(process()))
