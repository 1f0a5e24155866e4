"""Tell text from other data, and decode it."""

from __future__ import annotations

import codecs
import re
from typing import Optional

_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([a-zA-Z0-9_:.-]{1,40})", re.IGNORECASE)
_XML_ENCODING = re.compile(rb"\s*<\?xml[^>]{0,100}?encoding\s*=\s*[\"']([a-zA-Z0-9_:.-]{1,40})[\"']")
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins like UTF-16's
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UNKNOWN = "\ufffd"
_SAMPLE = 4096
_CONTROLS = bytes(
    set(range(0x20)) - set(b"\t\n\v\f\r\x1b\x1e")
)  # the last two are in ISO-2022-JP and in JSON sequences
_MOST_CONTROLS = 0.02
_PDF = b"%PDF-"  # its first page may be all text

# Python also has codecs that are not character sets of the web, such as punycode, which takes quadratic time.
_WEB_CODEC = re.compile(
    r"utf-(8|16|16-le|16-be)|iso8859-\d+|iso2022_jp|cp(125\d|866|874|932|949|950|936)|koi8-[ru]|gb2312|gbk|gb18030"
    r"|big5(hkscs)?|euc_(jp|kr)|shift_jis|mac-(roman|cyrillic)|tis-620"
)
_EIGHT_BITS = re.compile(r"iso8859-\d+|cp125\d|mac-roman")
# The meaning that the standard gives these labels (https://encoding.spec.whatwg.org/#names-and-labels).
_MEANT = {"ascii": "cp1252", "iso8859-1": "cp1252", "iso8859-9": "cp1254", "gb2312": "gb18030", "gbk": "gb18030"}
_OTHER_LABELS = {
    "iso-8859-8-i": "iso8859-8",
    "ms_kanji": "cp932",
    "unicode": "utf-16",
    "utf8mb4": "utf-8",
    "windows-31j": "cp932",
    "x-cp1251": "cp1251",
    "x-cp1252": "cp1252",
    "x-euc-jp": "euc_jp",
    "x-gbk": "gb18030",
    "x-sjis": "cp932",
}


def is_binary(data: bytes) -> bool:
    """Return whether a body is no text, by its beginning: servers often state a wrong type, or none."""
    sample = data[:_SAMPLE]
    if sample.startswith(_PDF):
        return True
    if sample.startswith(tuple(mark for mark, _ in _MARKS)) or _utf_16(sample) is not None:
        return False
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return controls > _MOST_CONTROLS * len(sample)


def is_plain(data: bytes) -> bool:
    """Return whether a body, perhaps without its end, is text in UTF-8."""
    try:
        codecs.getincrementaldecoder("utf-8")("strict").decode(data)
    except UnicodeDecodeError:
        return False
    return not is_binary(data)


def decode(data: bytes, charset: Optional[str], *, cut: bool) -> str:
    """Decode a body.

    The character set comes from the byte order mark, the header's ``charset``, or the page, in this order; the last
    resorts are UTF-8 and windows-1252. Servers are often configured wrong, so valid UTF-8 wins over a stated charset
    that does not match the bytes, and over one of 8 bits, which matches any: other text is hardly ever UTF-8 by chance.

    Args:
        data: the body.
        charset: the charset in the Content-Type header.
        cut: whether the end of the body is missing, so that its last character may be broken.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace")
    unmarked = _utf_16(data[:_SAMPLE])
    if unmarked is not None:
        return data.decode(unmarked, "replace")
    stated = [charset or ""]
    stated += [m.group(1).decode() for m in (_XML_ENCODING.match(data[:1024]), _META_CHARSET.search(data[:4096])) if m]
    known = [name for name in map(_codec, stated) if name is not None]
    if known and known[0].startswith("utf-16") and (charset is None or is_plain(data)):
        known[0] = "utf-8"  # as the standard says: the declaration itself is readable as ASCII
    order = [*known[:1], "utf-8"]
    if _EIGHT_BITS.fullmatch(order[0]):
        order.reverse()
    for name in order:
        try:
            return codecs.getincrementaldecoder(name)("strict").decode(data, final=not cut)
        except UnicodeDecodeError:
            continue
    if known and known[0] != "utf-8":
        return data.decode(known[0], "replace")
    text = data.decode("utf-8", "replace")
    broken = text.count(_UNKNOWN)
    if 2 * broken <= len(text) - len(text.encode("ascii", "ignore")):
        return text  # broken at some places
    return data.decode(next((name for name in known[1:] if name != "utf-8"), "cp1252"), "replace")


def _utf_16(sample: bytes) -> Optional[str]:
    """Return the name of UTF-16 without a byte order mark, which is known by its zeros; None for anything else."""
    pairs = len(sample) // 2
    first, second = sample[0::2].count(0), sample[1::2].count(0)
    if pairs < 2 or max(first, second) < pairs * 0.4 or min(first, second) > pairs * 0.02:
        return None
    name = "utf-16-le" if second > first else "utf-16-be"
    text = sample[: 2 * pairs].decode(name, "replace")
    return name if _UNKNOWN not in text[:-1] and not set(text) & set(map(chr, _CONTROLS)) else None


def _codec(label: str) -> Optional[str]:
    """Return Python's name of a character set of the web; None if it is not one."""
    try:
        label = label.strip().strip("\"'").lower()
        name = codecs.lookup(_OTHER_LABELS.get(label, label)).name
    except (LookupError, ValueError):
        return None
    name = _MEANT.get(name, name)
    return name if _WEB_CODEC.fullmatch(name) else None
