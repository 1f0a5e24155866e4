"""Start the fleet's processes, restart them when they end, as systemd does, and end them by their ids."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Callable

from chaos import runs
from chaos.proxy import Link
from chaos.schedule import HUB, MODEL, WORKER_NAMES

ROOT = Path(__file__).resolve().parent.parent
RESTART_SECONDS = 0.5
READY_SECONDS = 60.0
STOP_SECONDS = 20.0

_PEAK = re.compile(r"^VmHWM:\s+(\d+) kB", re.MULTILINE)
_LISTENS = re.compile(rb"listen=(?:http://)?\S+:(\d+)")


class ChaosError(Exception):
    """The run itself failed; the message says why and holds the end of a log."""


class Service:
    """Keep one program running behind a link. Its port changes with each start; that of the link does not.

    Args:
        link: gives the program its name, and passes connections on to it.
        argv: the command line of a program that listens on any free port and prints it.
        environ: the whole environment.
        directory: the working directory, created if missing. The output goes to ``output.log`` in it.

    Attributes:
        starts: how often it was started.
        ready: set while it serves.
    """

    def __init__(self, link: Link, argv: Sequence[str], environ: Mapping[str, str], directory: Path) -> None:
        self.link = link
        self.name = link.name
        self.log = directory / "output.log"
        self.starts = 0
        self.ready = asyncio.Event()
        self._argv = list(argv)
        self._environ = dict(environ)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._keeping: asyncio.Future[None] | None = None

    @property
    def pid(self) -> int | None:
        """The id of the running process, if it runs."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def start(self) -> None:
        """Start the program, and start it again whenever it ends, until :meth:`stop`."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._keeping = asyncio.ensure_future(self._keep())

    def kill(self) -> None:
        """Kill the process, as a power cut does."""
        if self._process is not None:
            self._process.kill()

    async def pause(self, seconds: float) -> None:
        """Stop the process for some seconds with SIGSTOP."""
        process = self._process
        if process is not None:
            process.send_signal(signal.SIGSTOP)  # send_signal() polls first, so the id can't belong to another process
            try:
                await asyncio.sleep(seconds)
            finally:
                process.send_signal(signal.SIGCONT)

    async def stop(self) -> int | None:
        """Terminate the process, do not start it again, and return its exit status."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
        process = self._process
        if process is None:
            return None
        process.send_signal(signal.SIGCONT)
        process.terminate()
        await until(lambda: process.poll() is not None, STOP_SECONDS)
        self.destroy()
        return process.returncode

    def destroy(self) -> None:
        """Kill the process and do not start it again."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def peak_memory(self) -> float:
        """Return the most memory, in MB, that the running process has had; 0 if none runs."""
        process = self._process
        if process is None:
            return 0.0
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found = _PEAK.search(Path(f"/proc/{process.pid}/status").read_text())
            return int(found.group(1)) / 1024 if found else 0.0  # a process that was just killed has none
        return 0.0

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the output."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:]) if self.log.exists() else ""

    async def _keep(self) -> None:
        while True:
            self.starts += 1
            offset = self.log.stat().st_size if self.log.exists() else 0
            process = self._process = self._open()
            while process.poll() is None:
                if self.link.upstream is None:
                    with self.log.open("rb") as file:
                        file.seek(offset)
                        found = _LISTENS.search(file.read(1 << 16))
                    if found:
                        self.link.upstream = int(found.group(1))
                        self.ready.set()
                await asyncio.sleep(0.02)
            self.link.upstream = None
            self.ready.clear()
            await asyncio.sleep(RESTART_SECONDS)

    def _open(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(  # nosec B603 # no shell; PiBot's own processes
                self._argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environ,
                cwd=self._directory,
                start_new_session=True,
            )


class SupervisedFleet:
    """Run the model, the workers, the hub and the links between them.

    Args:
        folder: for everything that they write.
        data: the folder of the hub's database.
        lease_seconds: the length of a lease.

    Attributes:
        mark: a text that every process of this run has in its environment or command line.
        links: by the name of the service behind each.
        ways_to_model: each worker's own link to that of the model.
    """

    def __init__(self, folder: Path, data: Path, lease_seconds: float) -> None:
        self.mark = f"chaos-{secrets.token_hex(8)}"
        self.folder = folder
        self.data = data
        self.runs = folder / "runs"
        self.runs.mkdir()
        self.links = {name: Link(name) for name in (*WORKER_NAMES, HUB, MODEL)}
        self.ways_to_model = {name: Link(f"the model of {name}") for name in WORKER_NAMES}
        for way in self.ways_to_model.values():
            way.upstream = self.links[MODEL].port
        self.sandbox = "bwrap" if shutil.which("bwrap") else "off"
        environ = self._environ(lease_seconds)
        self.services = {
            MODEL: self._service(MODEL, ["chaos.model"], environ),
            **{
                name: self._service(
                    name,
                    ["pibot.worker_task_executor", "--port", "0", "--worker-id", name],
                    # Few retries, so that a worker which can't reach the model says so and does not only wait.
                    {**environ, "VOLC_BASE_URL": _model_at(way), "PIBOT_LLM_RETRIES": "2"},
                )
                for name, way in self.ways_to_model.items()
            },
            HUB: self._service(HUB, ["pibot", "hub", "--host", "127.0.0.1", "--port", "0"], environ),
        }

    @property
    def hub(self) -> Service:
        return self.services[HUB]

    def all_links(self) -> list[Link]:
        """Return every link between two processes."""
        return [*self.links.values(), *self.ways_to_model.values()]

    async def start(self) -> None:
        """Start everything, and return when all of it serves.

        Raises:
            ChaosError: a process did not start.
        """
        for link in self.all_links():
            await link.open()
        for service in self.services.values():
            service.start()
        for service in self.services.values():
            try:
                await asyncio.wait_for(service.ready.wait(), READY_SECONDS)
            except asyncio.TimeoutError as exc:
                raise ChaosError(f"{service.name} did not start:\n{service.tail()}") from exc

    async def stop(self) -> None:
        """Terminate the hub, then the other processes."""
        await self.hub.stop()
        await asyncio.gather(*(service.stop() for service in self.services.values()))

    async def destroy(self) -> None:
        """Kill everything that is left, child processes too. Calling it after :meth:`stop` is fine."""
        for service in self.services.values():
            service.destroy()
        for pid, _ in marked(self.mark):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for link in self.all_links():
            await link.close()

    def orphans(self) -> list[tuple[int, str]]:
        """Return this run's processes that are no services: children of workers that were killed or are idle."""
        own = {service.pid for service in self.services.values()}
        return [(pid, command) for pid, command in marked(self.mark) if pid not in own]

    def _service(self, name: str, arguments: list[str], environ: Mapping[str, str]) -> Service:
        return Service(self.links[name], [sys.executable, "-m", *arguments], environ, self.folder / name)

    def _environ(self, lease_seconds: float) -> dict[str, str]:
        """Return the environment of all services, without any setting of the user's."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL", "TMPDIR")}
        addresses = {f"WORKER_{number}_IP": "127.0.0.1" for number in range(1, len(WORKER_NAMES) + 1)}
        ports = {f"WORKER_{n}_PORT": str(self.links[name].port) for n, name in enumerate(WORKER_NAMES, 1)}
        return {
            **kept,
            **addresses,
            **ports,
            runs.MARK: self.mark,
            runs.FOLDER: str(self.runs),
            "HOME": str(self.folder),
            "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
            "VOLC_API_KEY": "chaos",
            "VOLC_BASE_URL": _model_at(self.links[MODEL]),
            "MODEL_NAME": "chaos",
            # The model is cut off too, and no job should fail for that.
            "PIBOT_LLM_RETRIES": "8",
            "PIBOT_DATA_DIR": str(self.data),
            "PIBOT_SKILLS_DIR": str(ROOT / "chaos" / "skills"),
            "PIBOT_SANDBOX": self.sandbox,
            "PIBOT_LEASE_SECONDS": f"{lease_seconds:g}",
            "PIBOT_STOP_GRACE": "5",
            "PIBOT_SUBMIT_PER_MINUTE": "0",
        }


def _model_at(link: Link) -> str:
    return f"http://127.0.0.1:{link.port}/v1"


async def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for ``condition`` for up to ``seconds``, and return whether it holds."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        if condition():
            return True
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.02)


def marked(mark: str) -> list[tuple[int, str]]:
    """Return the id and command line of each process with ``mark`` in its environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        # It may end meanwhile; and another user's process can't be one of this run.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            command = (entry / "cmdline").read_bytes()
            if mark.encode() in command or mark.encode() in (entry / "environ").read_bytes():
                found.append((int(entry.name), command.replace(b"\0", b" ").decode("utf-8", "replace").strip()))
    return found
