"""Where a page sends its reader on to, otherwise than by HTTP, and what to say where it shows nothing itself."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

from .page import Page

LONGEST_WAIT = 30.0
"""Seconds: a page that goes on later than that is there to be read."""

SHORT = 1_000
"""Characters: a page with more text is there to be read, unless it goes on at once."""

NEARLY_EMPTY = 200
"""Characters: what a page shows that is made by scripts, or consists of frames."""

_LOADING = 40
"""Characters: what a page says while its scripts load."""

_REFRESH = re.compile(r"\s*(?=[\d.])(\d{0,9})[\d.]*\s*(?:[;,]\s*)?(.*)", re.DOTALL)
_URL = re.compile(r"url\s*=\s*(.*)", re.DOTALL | re.IGNORECASE)
_GOING = re.compile(
    r"""\blocation(?:\.href)?\s*=\s*["'`]([^"'`\s]{1,2000})["'`]"""
    r"""|\blocation\.(?:replace|assign)\s*\(\s*["'`]([^"'`\s]{1,2000})["'`]"""
)
_ONLY_A_STEP = 2_000
"""Characters of script: a page without text that has no more, and names one address to go to, only leads there."""


class Onward(NamedTuple):
    """Where a page leads.

    Args:
        target: the address to fetch instead, relative to ``base``; empty for the same once more; None to stay.
        base: what it is relative to.
        hints: what to tell the model if the page is shown.
    """

    target: Optional[str]
    base: str
    hints: tuple[str, ...] = ()


# docs/decisions.md, D118
def onward(page: Page, header: str) -> Onward:
    """Find out where a page leads.

    Args:
        header: the answer's ``Refresh`` header; empty if it has none.
    """
    seconds, target = _refresh(header or page.refresh)
    if target is not None:
        if not target:
            return Onward("" if seconds <= LONGEST_WAIT and len(page.text) < SHORT else None, page.base)
        limited = page.refresh_without_scripts and not header
        soon = seconds <= LONGEST_WAIT and (seconds == 0 or len(page.text) < SHORT)
        if soon and not (limited and len(page.text) >= NEARLY_EMPTY):
            return Onward(target, page.base, (f"the page sends its reader on to {target}",))
        return Onward(None, page.base, (f"after {seconds} seconds the page sends its reader on to {target}",))
    if len(page.text) >= NEARLY_EMPTY:
        return Onward(None, page.base)
    hints: list[str] = []
    if page.frames:
        if len(page.frames) == 1 and not page.text:
            return Onward(page.frames[0], page.base, (f"the page is a frame around {page.frames[0]}",))
        hints.append(f"the page consists of frames; fetch the one that you need: {' '.join(page.frames)}")
    elif _is_made_by_scripts(page):
        going = list(dict.fromkeys(one or other for one, other in _GOING.findall(page.scripts)))
        if len(going) == 1 and not page.text and len(page.scripts) <= _ONLY_A_STEP:
            return Onward(going[0], page.base, (f"the page's script goes on to {going[0]}",))
        instead = (
            f"its script may go on to {' '.join(going[:5])}" if going else "look for an API or a feed with its content"
        )
        hints.append(f"the page is made by JavaScript, which web_fetch does not run; {instead}")
    return Onward(None, page.base, tuple(hints))


def _is_made_by_scripts(page: Page) -> bool:
    if not page.text:
        return page.script_files or bool(page.scripts.strip())
    return "javascript" in page.spare.lower() or (page.script_files and len(page.text) < _LOADING)


def _refresh(content: Optional[str]) -> tuple[int, Optional[str]]:
    """Return the seconds and the address of a refresh; None if it is none, an empty address for the same page."""
    match = _REFRESH.match((content or "")[:4_000])
    if match is None:
        return 0, None
    target = match[2]
    named = _URL.match(target)
    if named is not None:
        target = named[1]
    if target[:1] in ("'", '"'):
        target = target[1:].partition(target[0])[0]
    return int(match[1] or 0), target.strip()
