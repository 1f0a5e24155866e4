"""Choose the HTTP proxy for an address: the owner's own, or the one that the environment names."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from pibot.errors import SettingsError
from pibot.settings.environment import Environment
from pibot.settings.values import Secret

_FROM_ENVIRONMENT = frozenset({"environment", "env", "system", "1", "true", "yes", "on"})
_NONE = frozenset({"none", "off", "0", "false", "no", "direct"})
_PORTS = {"http": 80, "https": 443}


# docs/decisions.md, D197
def proxy_for(wanted: str | None, address: str, env: Environment) -> Secret | None:
    """Return the proxy through which ``address`` is asked; None for none.

    Args:
        wanted: PIBOT_LLM_PROXY: a proxy's address, or a word for the environment's or for none.
        address: of the provider.
        env: holds the usual HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

    Raises:
        SettingsError: the proxy's address can't be right; the message does not repeat it, as it may hold a password.
    """
    if wanted is None or wanted.lower() in _NONE:
        return None
    if wanted.lower() not in _FROM_ENVIRONMENT:
        return Secret(_checked(wanted, "PIBOT_LLM_PROXY", ", environment or none"))
    parts = urlsplit(address)
    if bypassed(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0), _named(env, "NO_PROXY")[1]):
        return None
    for name in (f"{parts.scheme.upper()}_PROXY", "ALL_PROXY"):
        variable, value = _named(env, name)
        if value:
            value = value if "://" in value else f"http://{value}"
            return Secret(_checked(value, variable, ""))
    return None


def bypassed(host: str, port: int, no_proxy: str) -> bool:
    """Return whether an address is asked without a proxy.

    Args:
        host, port: of the address.
        no_proxy: names, suffixes, addresses and networks (CIDR), each with a port where one is meant; ``*`` for all.
    """
    host = host.lower().rstrip(".")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    for entry in filter(None, re.split(r"[,\s]+", no_proxy.lower())):
        if entry == "*":
            return True
        name, only = _split_port(entry)
        if only is not None and only != port:
            continue
        if address is not None:
            try:
                if address in ipaddress.ip_network(name.strip("[]"), strict=False):
                    return True
            except (ValueError, TypeError):  # a name, or no network
                continue
        suffix = name.lstrip("*").strip(".")
        if suffix and (host == suffix or host.endswith(f".{suffix}")):
            return True
    return False


def _split_port(entry: str) -> tuple[str, int | None]:
    match = re.fullmatch(r"(\[[^\]]+\]|[^:]+):(\d{1,5})", entry)
    return (match[1], int(match[2])) if match else (entry, None)


def _named(env: Environment, name: str) -> tuple[str, str]:
    """Return the variable's name as it is written, and its value. The lower-case one wins, as it does for curl."""
    for written in (name.lower(), name):
        value = env.get(written)
        if value is not None:
            return written, value
    return name, ""


def _checked(url: str, name: str, others: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if host and (parts.path.strip("/") or parts.query or parts.fragment):
        raise SettingsError(
            f"{name} must end with the port, like http://user:password@host:3128; in the password, write # as %23, "
            "/ as %2F and ? as %3F"
        )
    if not host or parts.scheme not in ("http", "https") or not url.isascii() or " " in url:
        # Not quoted: it may hold a password.
        raise SettingsError(f"{name} must be like http://host:3128 or http://user:password@host:3128{others}")
    return url
