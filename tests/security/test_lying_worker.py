"""A worker that was taken over answers with anything. The hub's memory stays as it was, and all others are served."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pytest
from chaos.lies import FLOODS, NO_JSON, REPORTS, RESULTS, STILL_RUNNING, Lie

from pibot.settings import Secret, Settings
from tests.support.fleet import make_skills
from tests.support.lying_worker import LyingWorkers
from tests.support.processes import Running, clean_environment, serving_process
from tests.support.serving import Answer, ask
from tests.support.waiting import until
from tests.support.workers import workers

pytestmark = pytest.mark.system

KEY = "fleet-key-0123456789"
LIARS = 24
"""Each tells up to two lies about tasks; a third would set it aside."""
MOST_MB = 30.0

SCRIPT = (
    "from pibot.master_hub import HubService; "
    "HubService.__init__.__kwdefaults__['poll_seconds'] = 0.1; "
    "from pibot.cli import main; main(prog_name='pibot')"
)
"""The hub's own process, which polls its workers more often."""

PAGES = ("/health", "/workers", "/tasks", "/metrics", "/dashboard", "/dashboard/data", "/approvals")


@dataclass
class World:
    """A hub's process, one honest worker, and many that lie."""

    hub: Running
    liars: LyingWorkers

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return ask(self.hub.port, method, path, body, key=KEY, headers=headers, timeout=60)

    def submit(self, description: str) -> str:
        answer = self.ask("POST", "/task", {"description": description, "skills": []})
        assert answer.status == 202, answer.body
        return str(answer.json()["job_id"])

    def outcome(self, job_id: str) -> dict[str, Any]:
        for _ in range(4):  # a busy machine has many lies to tell first
            answer = self.ask("GET", f"/task/{job_id}/result", Prefer="wait=20")
            if answer.status == 200:
                break
        assert answer.status == 200, self.ask("GET", f"/task/{job_id}").body
        return dict(answer.json())

    @contextlib.contextmanager
    def liars_alone(self) -> Iterator[None]:
        """Give the honest worker no task within the block."""
        self.ask("POST", "/workers/worker-99/drain")
        yield
        self.ask("POST", "/workers/worker-99/undrain")

    def check_pages(self, *more: str) -> None:
        for path in (*PAGES, *more):
            answer = self.ask("GET", path)
            assert answer.status == 200, (path, answer.body[:500])
            if answer.headers["Content-Type"].startswith("application/json"):
                json.loads(answer.body, parse_constant=refuse)

    def memory(self) -> float:
        """Return the most memory, in MB, that the hub had since :meth:`begin`."""
        return self._status("VmHWM")

    def begin(self) -> float:
        """Forget the most that the hub had, and return what it has."""
        Path(f"/proc/{self.hub.process.pid}/clear_refs").write_text("5")
        return self._status("VmRSS")

    def _status(self, name: str) -> float:
        text = Path(f"/proc/{self.hub.process.pid}/status").read_text()
        return float(text.split(f"{name}:")[1].split()[0]) / 1024


def refuse(constant: str) -> NoReturn:
    raise AssertionError(f"{constant} is not JSON")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lies")
    honest_settings = Settings(api_key=Secret(KEY), skills_dir=make_skills(folder / "skills"))
    with workers(1, honest_settings) as (honest,), LyingWorkers(LIARS) as liars:
        ports = dict(enumerate(liars.ports, 1)) | {99: honest.address.port}
        environment = {f"WORKER_{number}_IP": "127.0.0.1" for number in ports}
        environment |= {f"WORKER_{number}_PORT": str(port) for number, port in ports.items()}
        environment |= {"PIBOT_API_KEY": KEY, "PIBOT_HOT_CELSIUS": "1000", "PIBOT_MIN_MEMORY_MB": "0"}
        environment["PIBOT_SKILLS_DIR"] = str(folder / "skills")
        hub = serving_process(
            folder / "hub",
            ["-c", SCRIPT, "hub", "--port", "0", "--host", "127.0.0.1"],
            clean_environment(**environment),
            port_pattern=r"listen=\S+?:(\d+)",
        )
        with hub as running:
            world = World(running, liars)
            for _ in range(3):  # so that what it needs anyway is there
                assert world.outcome(world.submit("say hello"))["output"] == "say hello"
                world.check_pages()
            yield world


def test_a_worker_that_answers_202_at_once_is_not_asked_again_and_again(world: World) -> None:
    world.liars.teach({"still running": STILL_RUNNING})
    with world.liars_alone():
        job_id = world.submit("say: still running")
        until(lambda: "still running" in world.liars.told)
        polls = world.liars.asked[0]
        until(lambda: world.liars.asked[0] >= polls + 20)
        assert world.liars.questions < 20
    assert world.ask("POST", f"/task/{job_id}/cancel").json()["status"] == "cancelled"


def rounds(lies: dict[str, Lie]) -> list[tuple[str, ...]]:
    names = iter(lies)
    return list(iter(lambda: tuple(islice(names, LIARS)), ()))


STATUS_LIES: dict[str, Lie] = {**FLOODS, **NO_JSON, **REPORTS}


@pytest.mark.parametrize("names", rounds(STATUS_LIES), ids=lambda names: f"{names[0]} and {len(names) - 1} more")
def test_whatever_workers_say_of_themselves_the_hub_stays_small_and_serves_all_others(
    world: World, names: tuple[str, ...]
) -> None:
    before = world.begin()
    asked = list(world.liars.asked)
    world.liars.reports = {index: STATUS_LIES[name] for index, name in enumerate(names)}
    jobs = [world.submit(f"say {number}") for number in range(3)]
    until(lambda: all(now >= then + 2 for now, then in zip(world.liars.asked, asked)))
    assert [world.outcome(job_id)["output"] for job_id in jobs] == ["say 0", "say 1", "say 2"]
    world.check_pages()
    world.liars.reports = {}
    assert world.memory() - before < MOST_MB


TASK_LIES: dict[str, Lie] = {**RESULTS, **FLOODS, **NO_JSON}


@pytest.mark.parametrize("names", rounds(TASK_LIES), ids=lambda names: f"{names[0]} and {len(names) - 1} more")
def test_an_answer_to_a_task_that_can_not_be_right_is_a_lost_attempt_and_another_worker_takes_the_step(
    world: World, names: tuple[str, ...]
) -> None:
    before = world.begin()
    world.liars.teach({name: TASK_LIES[name] for name in names})
    with world.liars_alone():
        jobs = {name: world.submit(f"say: {name}") for name in names}
        until(lambda: set(names) <= set(world.liars.told))
    for name, job_id in jobs.items():
        outcome = world.outcome(job_id)
        assert (outcome["status"], outcome["output"]) == ("completed", f"say: {name}"), (name, outcome)
    world.check_pages(*(f"/task/{job_id}" for job_id in jobs.values()))
    world.check_pages(*(f"/dashboard/jobs/{job_id}" for job_id in jobs.values()))
    assert world.memory() - before < MOST_MB


def test_a_worker_that_says_nothing_holds_up_no_job(world: World) -> None:
    before = world.begin()
    world.liars.reports = {0: lambda _: iter([b"HTTP/1.1 200 OK\r\n"])}
    assert world.outcome(world.submit("say it"))["output"] == "say it"
    world.liars.reports = {}
    assert world.memory() - before < MOST_MB
