"""Read addresses, and keep them as they are written: a signed link breaks when its escapes are changed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Optional

from pibot.errors import ToolError

if TYPE_CHECKING:
    from yarl import URL

# RFC 3986, appendix B.
_PARTS = re.compile(r"(?:([a-zA-Z][a-zA-Z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(\?[^#]*)?(?:#.*)?", re.DOTALL)

# What browsers escape (https://url.spec.whatwg.org/#percent-encoded-bytes); the rest is sent as it is.
_ESCAPED_IN_PATH = re.compile(rb"[^\x21-\x7e]|[\"<>\\^`{}]")
_ESCAPED_IN_QUERY = re.compile(rb"[^\x21-\x7e]|[\"<>]")
_IGNORED = str.maketrans("", "", "\t\r\n")


def parse(text: str, base: Optional[URL] = None) -> URL:
    """Return the address to request, without its fragment.

    Args:
        text: an address; relative to ``base`` if there is one.
        base: the page or the redirect that names it.

    Raises:
        ToolError: it is malformed, or not one to fetch.
    """
    from yarl import URL

    where = "" if base is None else f"{base} redirects to an address that can't be followed: "
    short = repr(text[:200])
    parts = _PARTS.fullmatch(text.strip().translate(_IGNORED))
    assert parts is not None  # the expression matches any text
    scheme, authority, path, query = parts[1], parts[2], parts[3], parts[4] or ""
    if base is not None and scheme is None:
        scheme = base.scheme
        if authority is None:
            authority = base.raw_authority
            if not path:
                path, _, old = base.raw_path_qs.partition("?")
                query = query or (f"?{old}" if old else "")
            elif not path.startswith("/"):
                path = base.raw_path.rpartition("/")[0] + "/" + path
    if (scheme or "").lower() not in ("http", "https") or not authority:
        raise ToolError(f"{where}{short} must begin with http:// or https:// and a host")
    try:
        origin = URL(f"{scheme}://{authority}/")
        _ = origin.port  # parsed only when read
        target = _escaped(_ESCAPED_IN_PATH, _without_dots(path)) + _escaped(_ESCAPED_IN_QUERY, query)
    except ValueError as exc:
        raise ToolError(f"{where}{short} is no address: {exc}") from None
    if not origin.host:
        raise ToolError(f"{where}{short} must begin with http:// or https:// and a host")
    if origin.user is not None or origin.password is not None:
        raise ToolError(f"{where}the address holds a user's name or password, which are not sent; leave them out")
    if not path and not query:
        return origin.origin()  # shown as it was given; the request says "/"
    if query == "?":
        # As a query, yarl would leave it out.
        return URL.build(scheme=origin.scheme, authority=origin.raw_authority, path=target, encoded=True)
    return URL(f"{origin.origin()}{target}", encoded=True)


def as_requested(url: URL) -> str:
    """Return what two addresses share that lead to the same request."""
    return f"{url.origin()}{url.raw_path_qs}"


def _without_dots(path: str) -> str:
    """Resolve ``.`` and ``..`` as RFC 3986, 5.2.4 says; the request could else name another page than its address."""
    kept: list[str] = []
    segments = path.split("/")[1:] or [""]
    for segment in segments:
        if segment == "..":
            kept[-1:] = []
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _escaped(what: re.Pattern[bytes], text: str) -> str:
    # "surrogateescape": bytes of a header that are not UTF-8.
    raw = text.encode("utf-8", "surrogateescape")
    return what.sub(lambda match: b"%%%02X" % match.group()[0], raw).decode("ascii")
