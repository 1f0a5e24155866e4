from __future__ import annotations

import pytest

from pibot.sandbox import redraws
from pibot.sandbox.pipes import Output

SHOWN = {
    "a bar": ("".join(f"\r{n:3d}% {'#' * (n // 5)}" for n in range(101)) + "\ndone\n", f"100% {'#' * 20}\ndone\n"),
    "returns at the end": ("".join(f"{n:3d}%\r" for n in range(101)) + "\n", "100%\n"),
    "a bar without an end": ("before\n1%\r2%", "before\n2%"),
    "a shorter frame over a longer one": ("123456\rab", "ab3456"),
    "lines with returns": ("one\r\ntwo\r\r\n", "one\ntwo\n"),
    "a spinner": ("work |\b/\b-\b\\\bdone", "work done"),
    "backspaces beyond the beginning": ("a\b\b\bb", "b"),
    "overstruck letters": ("N\bNA\bAM\bME\bE", "NAME"),
    "colours": ("\x1b[1;31merror\x1b[0m: \x1b[38;5;12mno\x1b[K\x1b[m", "error: no"),
    "erased lines": ("long text\r\x1b[2Kok\x1b[K", "ok"),
    "erased to the end": ("long text\rok\x1b[K", "ok"),
    "erased to the beginning": ("12345\x1b[3D\x1b[1K", "  345"),
    "two bars": ("".join(f"a {n}\nb {n}\n\x1b[2A" for n in range(50)) + "\x1b[2Bend", "a 49\nb 49\nend"),
    "two bars by lines": ("".join(f"a {n}\nb {n}\n\x1b[2F" for n in range(50)) + "\x1b[2E", "a 49\nb 49\n"),
    "a screen drawn again": ("".join(f"\x1b[H\x1b[2Jframe {n}\nx" for n in range(50)), "frame 49\nx"),
    "erased below": ("a\nb\nc\n\x1b[3A\x1b[Jz", "z"),
    "a column": ("12345\x1b[2Gx\x1b[Cy\x1b[1Px", "1x3yx"),
    "a place that is saved": ("".join(f"\x1b[s{n}%\x1b[u" for n in range(50)) + "\x1b7done\x1b8", "done"),
    "a line above": ("a\nb\x1bM\rc", "c\nb"),
    "a title": ("\x1b]0;title\x07a\x1b]8;;http://h\x1b\\link\x1b]8;;\x1b\\", "alink"),
    "another escape": ("\x1b(B\x1b=a\x1b7b\x1b8", "ab"),
    "an escape without an end": ("a\x1b[3", "a\x1b[3"),
    "an escape that is none": ("a\x1b\x01b", "a\x01b"),
    "tabs and other controls": ("a\tb\x00c\x0cd\x07", "a\tb\x00c\x0cd\x07"),
    "letters of several bytes": ("░░░ 0%\r█░░ 33%\r███ 日本 \r\n", "███ 日本 \n"),
    "bytes that are no text": (b"a\xff\rb", "b\ufffd"),
    "nothing": ("", ""),
    "empty lines": ("\n\n\n", "\n\n\n"),
}


@pytest.mark.parametrize(("written", "shown"), SHOWN.values(), ids=list(SHOWN))
def test_each_line_is_shown_in_its_last_state_however_it_arrives(written: str | bytes, shown: str) -> None:
    data = written.encode() if isinstance(written, str) else written
    for size in (1, 2, 7, len(data) + 1):
        output = Output(10_000)
        for at in range(0, len(data), size):
            output.add(data[at : at + size])
        # An escape that is held back as unfinished does not draw: its bytes are shown.
        assert output.text() == (shown, False)


def test_two_thousand_frames_leave_room_for_the_rest() -> None:
    output = Output(1_000)
    output.add(b"begin\n")
    for n in range(2_000):
        output.add(b"\rfetching %4d of 2000" % (n + 1))
    output.add(b"\nend\n")
    assert output.text() == ("begin\nfetching 2000 of 2000\nend\n", False)
    assert output.written > 40_000


def test_after_too_many_steps_what_follows_the_last_return_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redraws, "MAX_STEPS", 10)
    output = Output(100_000)
    for n in range(100):
        output.add(b"%02d\r\nline\n\x1b[1mbold\x1b[0m\nx%d\ry\nfirst %02d " % (n, n, n))
        output.add(b"then\rlast  %02d then\n" % n)
    lines = output.text()[0].splitlines()
    assert lines[-5:] == ["99", "line", "bold", "y", "last  99 then"]
    assert len(lines) == 500


def test_a_cursor_reaches_no_line_that_is_final() -> None:
    output = Output(10_000)
    output.add("".join(f"{n}\n" for n in range(200)).encode() + b"\x1b[999Aup\x1b[999Bdown\n")
    lines = output.text()[0].splitlines()
    assert lines[:137] == [str(n) for n in range(137)]
    assert lines[137] == "up7"
    assert lines[138:200] == [str(n) for n in range(138, 200)]


@pytest.mark.parametrize(
    "piece",
    [
        b"x" * 65536,
        b"x\n" * 32768,
        b"\rx" * 32768,
        b"\x1b[999A" * 10922,
        b"\x1b]" * 32768,
        b"x" * 4000 + b"\r",
        b"\n\x1b[A",
        b"\x1b[999C#\n",
        b"\x1b" * 65536,
        b"\x1b[" + b"1" * 60000,
        b"x" * 60000 + b"\r\x1b[A",
        b"\xff" * 65536,
    ],
    ids=lambda piece: repr(piece[:8]),
)
@pytest.mark.timeout(60)
def test_no_output_takes_much_memory_or_time(piece: bytes) -> None:
    output = Output(1_000)
    for _ in range(30):
        output.add(piece)
    assert sum(map(len, output._screen._rows)) + len(output._screen._held) < 200_000
    assert len(output.text()[0]) < 1_100
