"""The cookies of one fetch: some sites redirect in a circle until they get theirs back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from yarl import URL

MAX_COOKIES = 50
MAX_LENGTH = 4096
"""The longest cookie, as RFC 6265 says."""

MAX_HEADER = 16 * 1024
"""The most characters of cookies in one request."""

_FORBIDDEN = re.compile(r"[^\x20-\x7e\x80-\xff]")
_LONG_AGO = re.compile(r"[ -](19\d\d|200\d)\b")  # how a server deletes a cookie


class _Cookie(NamedTuple):
    value: str
    subdomains: bool
    secure: bool


class Cookies:
    """Keeps the cookies that the servers of one fetch set, and returns each to its own site only."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str, str], _Cookie] = {}  # by domain, path and name

    def take(self, headers: Sequence[str], url: URL) -> None:
        """Take the ``Set-Cookie`` headers of an answer from ``url``; leave out what is not valid there."""
        for header in headers:
            self._take(header, url)

    def for_request(self, url: URL) -> str:
        """Return the ``Cookie`` header of a request; empty if it has none."""
        host, path = url.raw_host or "", url.raw_path
        found, room = [], MAX_HEADER
        # The longest path first, as RFC 6265 says.
        for (domain, folder, name), cookie in sorted(self._kept.items(), key=lambda item: -len(item[0][1])):
            here = host == domain or (cookie.subdomains and host.endswith(f".{domain}"))
            if here and _is_below(path, folder) and (url.scheme == "https" or not cookie.secure):
                text = f"{name}={cookie.value}"
                room -= len(text) + 2
                if room >= 0:
                    found.append(text)
        return "; ".join(found)

    def _take(self, header: str, url: URL) -> None:
        pair, *rest = header.split(";")
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not name or not equals or len(pair) > MAX_LENGTH or _FORBIDDEN.search(pair):
            return
        attributes = {key.strip().lower(): text.strip() for key, _, text in (one.partition("=") for one in rest)}
        host = url.raw_host or ""
        domain = attributes.get("domain", "").lower().strip(".")
        if domain and domain != host and not (host.endswith(f".{domain}") and _is_a_site(domain)):
            return
        path = attributes.get("path", "")
        if not path.startswith("/"):
            path = url.raw_path.rpartition("/")[0] or "/"
        secure = "secure" in attributes
        if secure and url.scheme != "https":
            return
        key = (domain or host, path, name)
        self._kept.pop(key, None)
        age = attributes.get("max-age", "")
        gone = (
            int(age[:10]) <= 0 if re.fullmatch(r"-?\d+", age[:10]) else _LONG_AGO.search(attributes.get("expires", ""))
        )
        if not gone and len(self._kept) < MAX_COOKIES:
            self._kept[key] = _Cookie(value, bool(domain), secure)


def _is_a_site(domain: str) -> bool:
    """Return whether a domain belongs to one owner, as far as that can be told without the list of public suffixes."""
    *_, second, first = ["", *domain.split(".")]
    return bool(second) and not first.isdigit() and (domain.count(".") > 1 or len(second) > 3 or len(first) > 2)


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder if folder.endswith("/") else f"{folder}/")
