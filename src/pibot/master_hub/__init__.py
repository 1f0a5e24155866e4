"""The master's hub: the HTTP API, the dashboard and the model gateway, over the job store and the dispatcher.

Start reading at :mod:`pibot.master_hub.app`; :mod:`pibot.master_hub.service` puts the parts together.
"""

from __future__ import annotations

from pibot.master_hub.app import create_hub_app, run_hub
from pibot.master_hub.service import HubService

__all__ = ["HubService", "create_hub_app", "run_hub"]
