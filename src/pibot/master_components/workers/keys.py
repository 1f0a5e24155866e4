"""What the master shows to each worker, also while the keys are changed."""

from __future__ import annotations

from collections.abc import Mapping

from pibot.settings import Secret, Settings


class WorkerKeys:
    """The fleet's key, or a worker's own; and the one before, for as long as a worker still asks for that.

    Args:
        fleet: what a worker without one of its own asks for.
        own: by the worker's id.
        previous: of those, what the worker asked for before.
    """

    def __init__(
        self,
        fleet: Secret | None = None,
        own: Mapping[str, Secret] | None = None,
        previous: Mapping[str, Secret] | None = None,
    ) -> None:
        self._fleet = fleet
        self._shown = dict(own or {})
        self._others = dict(previous or {})

    @classmethod
    def of(cls, settings: Settings) -> WorkerKeys:
        """As they are set."""
        return cls(settings.api_key, settings.worker_tokens, settings.previous_worker_tokens)

    def of_worker(self, worker_id: str) -> Secret | None:
        """What that worker is shown."""
        return self._shown.get(worker_id, self._fleet)

    def other(self, worker_id: str, refused: Secret | None) -> bool:
        """Take the worker's other key from now on, since it refuses this one; False where there is none to take."""
        if worker_id not in self._others:
            return False
        if self._shown[worker_id] == refused:  # else another request has found that out already
            self._shown[worker_id], self._others[worker_id] = self._others[worker_id], self._shown[worker_id]
        return True
