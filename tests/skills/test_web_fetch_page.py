"""The skill web_fetch extracts title, text and links from a page."""

from __future__ import annotations

import codecs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from skills.web_fetch.characters import decode
from skills.web_fetch.page import MAX_LINKS, Page


def page(source: str) -> Page:
    return Page(source, "http://host/folder/page.html")


# --- what is shown ---


def test_a_page_has_its_title_on_one_line_and_a_line_for_each_block() -> None:
    got = page(
        "<!doctype html><html><head><title> Tea &amp;\n biscuits </title></head>"
        "<body><h1>Hot <b>tea</b>!</h1><p>One\n   two<br>three<ul><li>x<li>y</ul></body>"
    )
    assert got.title == "Tea & biscuits"
    assert got.text == "Hot tea!\nOne two\nthree\n- x\n- y"


def test_repeated_spaces_within_a_line_become_one() -> None:
    assert page("<p>a<b>b</b> <i> c</i>d  <span>\n e</span></p>").text == "ab cd e"


def test_preformatted_text_keeps_its_lines_and_indents() -> None:
    assert page("<pre>if x:\n    y  z</pre> end").text == "if x:\n    y  z\nend"


def test_cells_of_a_row_are_separated_by_tabs() -> None:
    assert page("<table><tr><th>a<th>b</tr><tr><td>1</td><td>2</td></tr></table>").text == "a\tb\n1\t2"


@pytest.mark.parametrize(
    "unseen",
    [
        "<script>if (a < b) { '</p>' }</script>",
        "<SCRIPT type=x>hidden</SCRIPT >",
        "<style>p > a { hidden }</style>",
        "<noscript><p>hidden</p></noscript>",
        "<template><p>hidden</template>",
        "<svg><title>hidden</title><svg></svg><text>hidden</text></svg>",
        "<!-- <p>hidden</p> -->",
        "<!-->",
        "<!doctype hidden>",
        "<?xml hidden?>",
        "</ hidden>",
        "<textarea>hidden</textarea>",
        "<iframe>hidden</iframe>",
        "<a title='hidden > still' data-x=\"hidden\" hidden>",
    ],
)
def test_elements_that_a_browser_hides_are_left_out(unseen: str) -> None:
    assert page(f"<p>before {unseen} after</p>").text == "before after"


def test_the_title_of_a_picture_is_not_the_pages_title() -> None:
    assert page("<svg><title>icon</title></svg><title>real</title><title>second</title>").title == "real"


def test_a_less_than_sign_alone_is_text() -> None:
    assert page("1 < 2 <3 a<b>c</b><").text == "1 < 2 <3 ac<"


@pytest.mark.parametrize("reference", ["&#999999999999;", "&#x" + "f" * 5000 + ";", "&#" + "9" * 5000])
def test_a_very_long_character_reference_is_one_unknown_character(reference: str) -> None:
    assert page(f"<p>a{reference} b").text == "a\ufffd b"


# --- links ---


def test_links_are_absolute_with_their_text_and_each_address_once() -> None:
    got = page(
        '<a href="x?a=1&amp;b=2#part">X <i>y</i></a> <a href=/y>Y</a> <a href="http://other/">O</a>'
        ' <a href="x?a=1&b=2">again</a> <a href="//third/z">Z</a> <a name=x>none</a>'
    )
    assert got.links == [
        ("X y", "http://host/folder/x?a=1&b=2"),
        ("Y", "http://host/y"),
        ("O", "http://other/"),
        ("Z", "http://third/z"),
    ]


def test_links_are_relative_to_the_base_element() -> None:
    assert page('<base href="/root/"><base href="/no/"><a href=x>x</a>').links == [("x", "http://host/root/x")]


@pytest.mark.parametrize("href", ["mailto:a@b", "javascript:x()", "data:text/html,x", "ftp://h/", "http://[x", "#top"])
def test_an_address_that_cannot_be_fetched_is_not_a_link(href: str) -> None:
    links = page(f'<a href="{href}">x</a>').links
    assert links == ([("x", "http://host/folder/page.html")] if href == "#top" else [])


def test_the_number_of_links_is_limited() -> None:
    got = page("".join(f"<a href={n}>{n}</a>" for n in range(MAX_LINKS + 50)))
    assert len(got.links) == MAX_LINKS


# --- hostile pages ---


BROKEN = (
    *("<", "</", "x<", "<a ", "</a ", "<a\n b ", "<a x=", "<a x='", "<a href=x>", "<div>", "<svg>", "<pre>\n"),
    *("<!--", "<![CDATA[", "<?", "<title>", "<title><a ", "<script></", "&#", "&amp", "= ", " "),
)


@pytest.mark.parametrize("unit", BROKEN)
@pytest.mark.timeout(20)  # the standard library's parser takes minutes for some of these
def test_broken_markup_takes_no_longer_than_other_markup(unit: str) -> None:
    Page(unit * (400_000 // len(unit)), "http://host/")


@given(st.lists(st.sampled_from([*"<>/!-'\"=&#; a9[]\n", "script", "svg", "title", "href", "pre", "li", "<a href="])))
def test_no_markup_raises(pieces: list[str]) -> None:
    got = page("".join(pieces))
    assert "\n" not in got.title


# --- characters ---


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        ("é€".encode(), "utf-8"),
        ("é€".encode("cp1252"), "windows-1252"),
        ("é€".encode("cp1252"), "ISO-8859-1"),  # which browsers read as windows-1252
        ("é€".encode("iso8859-15"), "iso-8859-15"),
        (codecs.BOM_UTF8 + "é€".encode(), "iso-8859-1"),
        (codecs.BOM_UTF16_LE + "é€".encode("utf-16-le"), None),
        (codecs.BOM_UTF16_BE + "é€".encode("utf-16-be"), "utf-8"),
        ("é€".encode(), None),
        ("é€".encode("cp1252"), None),
        ("é€".encode(), "no-such-charset"),
        ("é€".encode(), "punycode"),
        ("é€".encode(), "rot13"),
        ("é€".encode(), "us-ascii"),  # the label is wrong, and the bytes are valid UTF-8
        ("é€".encode(), "iso-8859-1"),
        ("é€".encode(), "euc-jp"),
        (b"<meta charset=windows-1252>" + "é€".encode("cp1252"), None),
        (b'<meta http-equiv="content-type" content="text/html; charset=windows-1252">' + "é€".encode("cp1252"), None),
        (b'<?xml version="1.0" encoding="windows-1252"?>' + "é€".encode("cp1252"), None),
        (b"<meta charset=utf-16>" + "é€".encode(), None),
    ],
)
def test_text_is_decoded_with_the_charset_that_matches(data: bytes, charset: str | None) -> None:
    assert decode(data, charset, cut=False).endswith("é€")


@pytest.mark.parametrize("charset", ["Shift_JIS", "EUC-JP", "ISO-2022-JP", "gb18030"])
def test_text_in_its_own_charset_is_read(charset: str) -> None:
    assert decode("日本".encode(charset), charset, cut=False) == "日本"


def test_a_stated_charset_of_more_than_8_bits_wins_over_bytes_that_happen_to_be_utf_8() -> None:
    assert decode("联通".encode("gbk"), "gb2312", cut=False) == "联通"


def test_a_character_cut_in_the_middle_does_not_make_the_rest_unreadable() -> None:
    assert decode("日本".encode()[:-1], None, cut=True) == "日"
    assert decode("日本".encode()[:-1], "utf-8", cut=False).startswith("日")


@given(st.binary(max_size=200), st.one_of(st.none(), st.text(max_size=20)), st.booleans())
def test_any_bytes_are_decoded_to_something(data: bytes, charset: str | None, cut: bool) -> None:
    assert isinstance(decode(data, charset, cut=cut), str)
