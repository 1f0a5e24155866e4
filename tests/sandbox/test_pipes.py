from __future__ import annotations

from pibot.sandbox.pipes import Output


def kept(limit: int, *pieces: bytes) -> tuple[str, bool]:
    output = Output(limit)
    for piece in pieces:
        output.add(piece)
    return output.text()


def test_output_within_the_limit_is_kept_whole_however_it_arrives() -> None:
    text = "héllo wörld €" * 3
    for at in range(len(text.encode())):
        assert kept(len(text), text.encode()[:at], text.encode()[at:]) == (text, False)


def test_output_beyond_the_limit_keeps_both_ends() -> None:
    text, truncated = kept(10, b"abcdefgh" * 1000, b"uvwxyz")
    assert truncated
    assert text == "abcde\n[… about 7996 bytes of output were dropped here …]\nvwxyz"


def test_a_flood_takes_no_more_memory_than_the_limit() -> None:
    output = Output(1000)
    for _ in range(500):
        output.add(b"x" * 65536)
    assert len(output._head) + len(output._tail) < 200_000
    assert len(output.text()[0]) < 1100
