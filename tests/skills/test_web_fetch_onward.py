"""The skill web_fetch follows pages that lead elsewhere, where that is safe, and says where it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pibot.errors import ToolError
from tests.skills.web_server import Names, WebServer, answer, fetch, web_server


@pytest.fixture
async def web() -> AsyncIterator[WebServer]:
    async with web_server() as server:
        server.page("/there", "found")
        yield server


# --- pages that lead elsewhere ---

LEADING = {
    "refresh": "<meta http-equiv=refresh content='0; url=/there'>",
    "refresh with a capital": '<META HTTP-EQUIV="Refresh" CONTENT="0;URL=/there">',
    "refresh with quotes": "<meta http-equiv=refresh content=\"0; url='/there'\">",
    "refresh with a quote left open": '<meta http-equiv=refresh content="0; url=\'/there">',
    "refresh without url": "<meta http-equiv=refresh content='0; /there'>",
    "refresh with a comma": "<meta http-equiv=refresh content='5, url = there'>",
    "refresh with a fraction": "<meta http-equiv=refresh content='.5;url=there'>You are sent on.",
    "refresh relative to a base": "<base href=/x/><meta http-equiv=refresh content='0;url=../there'>",
    "refresh without scripts": "<script></script><noscript><meta http-equiv=refresh content='0;url=there'></noscript>",
    "refresh at once from a long page": "<meta http-equiv=refresh content='0;url=there'>" + "<p>long text " * 200,
    "frameset of one": "<frameset rows='100%'><frame src='/there'><noframes>no frames</noframes></frameset>",
    "a frame alone": "<body><iframe src='there' width=100%></iframe></body>",
    "location": "<script>window.location = '/there'</script>",
    "location.href": '<script>location.href="there";</script>',
    "location.replace": "<body><script>\nwindow.location.replace('/there')\n</script></body>",
}


@pytest.mark.parametrize("source", LEADING.values(), ids=list(LEADING))
async def test_a_page_that_only_leads_elsewhere_is_followed(web: WebServer, source: str) -> None:
    got = await fetch(web.page("/", source))
    assert got.startswith(f"url: {web.url}/there\n")
    assert got.endswith("\n\nfound")


async def test_a_refresh_header_is_followed(web: WebServer) -> None:
    assert (await fetch(web.page("/", "wait", Refresh="0; url=/there"))).endswith("found")


STAYING = {
    "refresh of itself": ("<meta http-equiv=refresh content=30><p>news", "news"),
    "refresh to itself": ("<meta http-equiv=refresh content='0;url=/#top'><p>news", "news"),
    "refresh much later": ("<meta http-equiv=refresh content='600;url=/there'><p>news", "news"),
    "refresh later from a long page": ("<meta http-equiv=refresh content='9;url=/there'>" + "<p>news" * 400, "news"),
    "refresh without scripts from a long page": (
        "<noscript><meta http-equiv=refresh content='0;url=/there'></noscript>" + "<p>news" * 90,
        "news",
    ),
    "refresh in a comment": ("<!--<meta http-equiv=refresh content='0;url=/there'>--><p>news", "news"),
    "an advertisement in a frame": ("<iframe src=/there></iframe><p>news", "news"),
    "a script that may go on": ("<script>if (old) location = '/there'</script><p>news", "news"),
}


@pytest.mark.parametrize(("source", "text"), STAYING.values(), ids=list(STAYING))
async def test_a_page_that_is_there_to_be_read_is_not_left(web: WebServer, source: str, text: str) -> None:
    got = await fetch(web.page("/", source))
    assert got.startswith(f"url: {web.url}/\n")
    assert text in got
    assert len(web.heads) == 1


HINTS = {
    "frames": (
        "<frameset><frame src=/menu><frame src=/text></frameset>",
        "frames; fetch the one that you need",
        "/text",
    ),
    "an application": ("<div id=root></div><script src=/app.js></script>", "made by JavaScript", "API"),
    "one that is loading": ("<div>Loading…</div><script src=/app.js></script>", "made by JavaScript", "Loading…"),
    "one that asks for scripts": (
        "<div id=app>Menu</div><script>go()</script><noscript>You need to enable <b>JavaScript</b>.</noscript>",
        "made by JavaScript",
        "You need to enable",
    ),
    "two ways on": (
        "<script>if (x) location='/a'; else location.assign('/b')</script>",
        "its script may go on to /a /b",
        "(no text)",
    ),
    "its data": (
        '<script src=a.js></script><script type="application/ld+json">{"name": "Tea"}</script>',
        "the data that it holds for its scripts",
        '\n\n{"name": "Tea"}',
    ),
    "its description": (
        "<meta name=description content='All about tea'><script src=a.js></script>",
        "description: All about tea",
        "made by JavaScript",
    ),
}


@pytest.mark.parametrize(("source", "hint", "also"), HINTS.values(), ids=list(HINTS))
async def test_a_page_that_shows_nothing_by_itself_is_explained(
    web: WebServer, source: str, hint: str, also: str
) -> None:
    got = await fetch(web.page("/", source))
    assert hint in got
    assert also in got
    assert len(web.heads) == 1


async def test_a_page_that_leads_to_one_that_fails_is_shown_itself(web: WebServer) -> None:
    url = web.page("/", "<meta http-equiv=refresh content='1;url=gopher://h/'><p>Please wait")
    got = await fetch(url)
    assert "note: that page could not be fetched, so this is the one before it: " in got
    assert got.endswith("Please wait")


@pytest.mark.parametrize("source", ["<meta http-equiv=refresh content='0;url={}'>", "<iframe src='{}'></iframe>"])
async def test_a_page_leads_nowhere_that_its_reader_may_not_go(web: WebServer, source: str) -> None:
    with pytest.raises(ToolError, match=r"which is not on the public web"):
        await fetch(web.page("/", source.format(f"http://127.0.0.2:{web.port}/there")))
    with pytest.raises(ToolError, match=r"must begin with http|is not on the public web"):
        await fetch(web.page("/", "<meta http-equiv=refresh content='0;url=file:///etc/passwd'>"))
    assert len(web.heads) == 2


async def test_steps_by_pages_count_as_redirects(web: WebServer) -> None:
    for n in range(8):
        web.page(f"/{n}", f"<meta http-equiv=refresh content='0;url=/{n + 1}'>")
    with pytest.raises(ToolError, match="redirects more than 5 times"):
        await fetch(f"{web.url}/0")
    assert len(web.heads) == 6


@pytest.mark.parametrize("location", ["/", "#top", "", "/b"])
async def test_a_circle_is_named(web: WebServer, location: str) -> None:
    web.page("/b", "", "302 Found", Location="/")
    with pytest.raises(ToolError, match="redirects in a circle"):
        await fetch(web.page("/", "", "302 Found", Location=location))


# --- cookies ---


def wants(web: WebServer, path: str, pair: str, *attributes: str) -> str:
    """Set an answer that redirects to itself until it gets its cookie, and return the address."""

    def answered(head: str) -> bytes:
        if f"cookie: {pair}\r\n" in head.lower():
            return answer(b"found", "200 OK", {"Content-Type": "text/plain"})
        cookie = "; ".join([pair, *attributes])
        return answer(b"", "302 Found", {"Location": path, "Set-Cookie": cookie})

    web.routes[path] = answered
    return web.url + path


@pytest.mark.parametrize("attributes", [(), ("Path=/", "HttpOnly", "SameSite=Lax"), ("Max-Age=60", "Domain=127.0.0.1")])
async def test_a_redirect_gets_its_cookie_back(web: WebServer, attributes: tuple[str, ...]) -> None:
    assert (await fetch(wants(web, "/a/b", "id=1", *attributes))).endswith("found")
    assert "cookie" not in web.heads[0].lower()


async def test_a_page_that_refreshes_itself_gets_its_cookie_back(web: WebServer) -> None:
    def answered(head: str) -> bytes:
        if "Cookie: ok=1" in head:
            return answer(b"found", "200 OK", {"Content-Type": "text/plain"})
        return answer(
            b"<meta http-equiv=refresh content=0>", "200 OK", {"Content-Type": "text/html", "Set-Cookie": "ok=1"}
        )

    web.routes["/"] = answered
    assert (await fetch(web.url)).endswith("found")


@pytest.mark.parametrize(
    "attributes", [("Secure",), ("Path=/other",), ("Max-Age=0",), ("Expires=Thu, 01 Jan 1970 00:00:00 GMT",)]
)
async def test_a_cookie_that_does_not_hold_there_is_not_sent(web: WebServer, attributes: tuple[str, ...]) -> None:
    with pytest.raises(ToolError, match="redirects in a circle"):
        await fetch(wants(web, "/", "id=1", *attributes))
    assert "cookie" not in "".join(web.heads).lower()


@pytest.mark.parametrize(
    ("cookie", "host", "sent"),
    [
        ("id=1", "a.example.com", False),
        ("id=1; Domain=example.com", "b.example.com", True),
        ("id=1; Domain=.example.com", "example.com", True),
        ("id=1; Domain=com", "example.com", False),
        ("id=1; Domain=example.com", "badexample.com", False),
        ("id=1; Domain=b.example.com", "b.example.com", False),
        ("id=1\x01; Domain=example.com", "b.example.com", False),
        ("id=" + "x" * 5000 + "; Domain=example.com", "b.example.com", False),
    ],
)
async def test_a_cookie_goes_to_its_own_site_only(web: WebServer, cookie: str, host: str, sent: bool) -> None:
    names = Names(**{name.replace(".", "_"): ["127.0.0.1"] for name in (host, "www.example.com")})
    web.page("/first", "", "302 Found", Location=f"http://{host}:{web.port}/there", Set_Cookie=cookie)
    await fetch(f"http://www.example.com:{web.port}/first", resolver=names)
    assert ("Cookie: id=1\r\n" in web.heads[1]) is sent
    assert ("cookie" in web.heads[1].lower()) is sent


async def test_the_number_and_the_length_of_cookies_are_limited(web: WebServer) -> None:
    cookies = "".join(f"Set-Cookie: c{n}={'x' * 1000}\r\n" for n in range(100))
    web.routes["/"] = f"HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n{cookies}\r\n".encode()
    await fetch(web.url)
    assert 10_000 < len(web.heads[1]) < 20_000


# --- large pages ---


async def test_of_a_large_page_the_main_part_comes_first(web: WebServer) -> None:
    menu = "<nav>" + "<a href=/m>menu</a> " * 300 + "</nav>"
    source = f"<header>head</header>{menu}<div>before</div><main><h1>Title</h1><p>matter<aside>other</aside></main>"
    got = await fetch(web.page("/", source), max_chars=100)
    assert "; the main part of the page comes first" in got
    assert got.partition("\n\n")[2].startswith("Title\nmatter\nbefore\nhead\nmenu menu")
    short = await fetch(web.page("/", source.replace(menu, "<nav>menu</nav>")), max_chars=100)
    assert short.partition("\n\n")[2].startswith("head\nmenu\nbefore\nTitle\nmatter\nother")


@pytest.mark.parametrize("mark", ["id=content", "role=main", "id=mw-content-text"])
async def test_a_marked_element_is_the_main_part(web: WebServer, mark: str) -> None:
    source = "<div>" + "menu " * 300 + f"</div><div {mark}><div>inner</div>matter</div><div>after</div>"
    got = await fetch(web.page("/", source), max_chars=100)
    assert got.partition("\n\n")[2].startswith("inner\nmatter\nmenu menu")
