"""Every setting by name, for the documents and the tests. Nothing imports this at run time.

``tests/settings/test_catalog.py`` compares it with the code: a setting that is read and not listed here fails there,
and so does a default that differs.
"""

from __future__ import annotations

from typing import NamedTuple

MASTER, WORKER, COMMAND, DEMO = "master", "worker", "command", "demo"


class KnownSetting(NamedTuple):
    """One setting.

    Args:
        name: the environment variable. ``<n>`` stands for a worker's number, ``<name>`` for a key's name.
        read_by: the programs on which it has an effect: ``master``, ``worker``, ``command`` (``pibot run`` and the
            other commands that ask the hub) and ``demo``.
        default: the default as the environment would have it; empty where there is none. Paths are relative to the
            working directory.
    """

    name: str
    read_by: tuple[str, ...]
    default: str = ""


_BOTH = (MASTER, WORKER)
_ALL = (MASTER, WORKER, COMMAND)

KNOWN_SETTINGS = (
    # The model.
    KnownSetting("VOLC_API_KEY", _BOTH),
    KnownSetting("VOLC_BASE_URL", _BOTH, "https://ark.cn-beijing.volces.com/api/coding/v3"),
    KnownSetting("MODEL_NAME", _BOTH, "doubao-seed-code"),
    KnownSetting("OPENAI_API_KEY", _BOTH),
    KnownSetting("OPENAI_BASE_URL", _BOTH, "https://api.openai.com/v1"),
    KnownSetting("PIBOT_LLM_BACKEND", (WORKER,), "aiohttp"),
    KnownSetting("PIBOT_LLM_TIMEOUT", _BOTH, "120"),
    KnownSetting("PIBOT_LLM_RETRIES", _BOTH, "4"),
    KnownSetting("PIBOT_MODEL_WINDOW", _BOTH),
    KnownSetting("PIBOT_LLM_EXTRA", _BOTH),
    KnownSetting("PIBOT_LLM_PROFILE", _BOTH),
    KnownSetting("PIBOT_LLM_PROXY", _BOTH),
    KnownSetting("PIBOT_LLM_CA", _BOTH),
    # The master's gateway to the model.
    KnownSetting("PIBOT_JOB_TOKENS", (MASTER,)),
    KnownSetting("PIBOT_DAY_TOKENS", (MASTER,)),
    KnownSetting("PIBOT_GATEWAY_CALLS", (MASTER,)),
    KnownSetting("PIBOT_FALLBACK_MODEL", (MASTER,)),
    KnownSetting("PIBOT_FALLBACK_BASE_URL", (MASTER,)),
    KnownSetting("PIBOT_FALLBACK_API_KEY", (MASTER,)),
    KnownSetting("PIBOT_FALLBACK_EXTRA", (MASTER,)),
    KnownSetting("PIBOT_FALLBACK_PROFILE", (MASTER,)),
    KnownSetting("PIBOT_MODELS", (MASTER,)),
    KnownSetting("PIBOT_PRICES", (MASTER,)),
    KnownSetting("PIBOT_CURRENCY", (MASTER,)),
    # Names and addresses.
    KnownSetting("WORKER_ID", (WORKER,), "worker-1"),
    KnownSetting("WORKER_<n>_IP", (MASTER,)),
    KnownSetting("WORKER_<n>_PORT", (MASTER,), "5000"),
    KnownSetting("PIBOT_HUB_URL", (WORKER, COMMAND), "http://127.0.0.1:5000"),
    KnownSetting("PIBOT_DEMO_PORT", (DEMO,), "5000"),
    # Keys and certificates.
    KnownSetting("PIBOT_API_KEY", _ALL),
    KnownSetting("PIBOT_API_KEY_PREVIOUS", _BOTH),
    KnownSetting("PIBOT_KEY_<name>", (MASTER,)),
    KnownSetting("WORKER_<n>_TOKEN", (MASTER,)),
    KnownSetting("WORKER_<n>_TOKEN_PREVIOUS", (MASTER,)),
    KnownSetting("PIBOT_ALLOW_OPEN", _BOTH, "0"),
    KnownSetting("PIBOT_TLS_CERT", _ALL),
    KnownSetting("PIBOT_TLS_KEY", _ALL),
    KnownSetting("PIBOT_TLS_CA", _ALL),
    # Folders.
    KnownSetting("PIBOT_DATA_DIR", (MASTER,), "data"),
    KnownSetting("PIBOT_WORKSPACE_DIR", (WORKER,), "workspace"),
    KnownSetting("PIBOT_SKILLS_DIR", _BOTH, "skills"),
    KnownSetting("PIBOT_LOG_DIR", _BOTH),
    # The master's jobs and workers.
    KnownSetting("PIBOT_MAX_QUEUED", (MASTER,), "1000"),
    KnownSetting("PIBOT_QUEUE_MB", (MASTER,), "100"),
    KnownSetting("PIBOT_SUBMIT_PER_MINUTE", (MASTER,), "600"),
    KnownSetting("PIBOT_JOBS_KEPT", (MASTER,), "1000"),
    KnownSetting("PIBOT_JOBS_KEPT_DAYS", (MASTER,), "30"),
    KnownSetting("PIBOT_JOBS_MB", (MASTER,), "200"),
    KnownSetting("PIBOT_LOG_DAYS", (MASTER,), "14"),
    KnownSetting("PIBOT_LEASE_SECONDS", (MASTER,), "60"),
    KnownSetting("PIBOT_NO_WORKER_SECONDS", (MASTER,), "86400"),
    KnownSetting("PIBOT_REPLANS", (MASTER,), "2"),
    KnownSetting("PIBOT_HOT_CELSIUS", (MASTER,), "80"),
    KnownSetting("PIBOT_MIN_MEMORY_MB", (MASTER,), "60"),
    # A worker's tasks.
    KnownSetting("PIBOT_TASK_TIMEOUT", (WORKER,), "300"),
    KnownSetting("PIBOT_MAX_STEPS", (WORKER,), "30"),
    KnownSetting("PIBOT_MAX_TOKENS", (WORKER,), "400000"),
    KnownSetting("PIBOT_MAX_OUTPUT_CHARS", _BOTH, "50000"),
    KnownSetting("PIBOT_SHOW_REASONING", (WORKER,), "0"),
    KnownSetting("PIBOT_RESULTS_KEPT", (WORKER,), "200"),
    KnownSetting("PIBOT_RESULTS_TTL", (WORKER,), "86400"),
    KnownSetting("PIBOT_STOP_GRACE", (WORKER,), "20"),
    # What a worker's tools may do.
    KnownSetting("PIBOT_SANDBOX", (WORKER,), "bwrap"),
    KnownSetting("PIBOT_SANDBOX_SOCKET", (WORKER,)),
    KnownSetting("PIBOT_NETWORK_SKILLS", (WORKER,)),
    KnownSetting("PIBOT_READ_PATHS", (WORKER,)),
    KnownSetting("PIBOT_WEB_ALLOW", (WORKER,)),
    KnownSetting("PIBOT_APPROVE", (WORKER,)),
    KnownSetting("PIBOT_APPROVAL_SECONDS", (WORKER,), "86400"),
)
