"""Workers on raw sockets that answer the hub with anything but the truth."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Mapping
from types import TracebackType

from chaos.lies import BUSY, NO_SUCH_TASK, Asked, Lie, Parts, report


class LyingWorkers:
    """Several workers that answer ``/status`` with one lie each, and tasks with the lie that the task names.

    A task's lie is told once; after that the workers say that they are busy.

    Args:
        number: of workers.

    Attributes:
        ports: where they listen.
        reports: for each worker, what it answers to ``/status``; the truth where there is none.
        asked: how many requests each has answered.
        questions: how often they were asked for a result.
        told: the lies that tasks were answered with.
    """

    def __init__(self, number: int) -> None:
        self.reports: dict[int, Lie] = {}
        self.asked = [0] * number
        self.questions = 0
        self.told: list[str] = []
        self._lies: dict[str, Lie] = {}
        self._tasks: dict[str, str] = {}
        self._lock = threading.Lock()
        self._sockets = [socket.create_server(("127.0.0.1", 0), backlog=50) for _ in range(number)]
        self.ports = [int(sock.getsockname()[1]) for sock in self._sockets]
        self._connections: set[socket.socket] = set()
        for index in range(number):
            threading.Thread(target=self._accept, args=(index,), daemon=True).start()

    def __enter__(self) -> LyingWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            for sock in (*self._sockets, *self._connections):
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()

    def teach(self, lies: Mapping[str, Lie]) -> None:
        """Set the lies that a task's description may name."""
        with self._lock:
            self._lies = dict(lies)

    def _accept(self, index: int) -> None:
        while True:
            try:
                connection = self._sockets[index].accept()[0]
            except OSError:
                return
            with self._lock:
                self._connections.add(connection)
            threading.Thread(target=self._serve, args=(index, connection), daemon=True).start()

    def _serve(self, index: int, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError, IndexError):
            file = connection.makefile("rb")
            while line := file.readline():
                method, path, _ = line.decode().split()
                length = 0
                while (header := file.readline().strip()) != b"":
                    if header.lower().startswith(b"content-length:"):
                        length = int(header.split(b":")[1])
                asked = Asked(method, path, json.loads(file.read(length) or b"{}"))
                for part in self._answer(index, asked):
                    connection.sendall(part)
                self.asked[index] += 1
        self.asked[index] += 1
        with self._lock:
            self._connections.discard(connection)

    def _answer(self, index: int, asked: Asked) -> Parts:
        if asked.about_worker:
            return self.reports.get(index, report())(asked)
        self.questions += asked.method == "GET"
        with self._lock:
            if asked.method == "POST" and asked.path == "/task":
                lie = asked.body["description"].partition(": ")[2]
                if lie not in self._lies or lie in self.told:
                    return BUSY(asked)
                self.told.append(lie)
                self._tasks[asked.task_id] = lie
            found = self._lies.get(self._tasks.get(asked.task_id, ""))
        return (found or NO_SUCH_TASK)(asked)
