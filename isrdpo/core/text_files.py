"""Text files as people save them: UTF-8 with or without its mark, UTF-16 and UTF-32 by theirs.

Anything else is refused with the line and a guess of the encoding; no byte is ever replaced. Bytes that are
not UTF-8 pass through `open_text` as escapes (U+DC80 to U+DCFF, PEP 383), so that a reader of rows can refuse
the one row that holds them: `encoding_fault` says what is wrong with it.
"""

import codecs
import io
import re
from pathlib import Path
from typing import TextIO

from isrdpo.core.errors import IsrdpoError

MARKS = (  # that of UTF-32 first: it begins as that of UTF-16 does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_ESCAPED_BYTES = re.compile("[\udc80-\udcff]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_KANA = re.compile("[\u3040-\u30ff]")
_HANGUL_ONLY = re.compile("[\x00-\x7f\uac00-\ud7a3]*")
_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")


class TextError(IsrdpoError, ValueError):
    """A text that is not written as text should be; the line says where, and what to do."""


def open_text(path: Path, newline: str | None = None) -> TextIO:
    """Open a text file to read; `newline` is that of the built-in `open`.

    Bytes that are not UTF-8 come as escapes, which `encoding_fault` finds. Raises TextError where a file with
    the mark of UTF-16 or UTF-32 is neither.
    """
    with path.open("rb") as file:
        begin = file.read(4)
    for mark, encoding in MARKS:
        if begin.startswith(mark):
            return io.StringIO(_decode_marked(path, encoding), newline=newline)
    return path.open(encoding="utf-8-sig", errors="surrogateescape", newline=newline)


def _decode_marked(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].decode(encoding, errors="ignore").count("\n") + 1
        name = encoding.upper()
        what = f"begins with the mark of {name}, but is not {name} ({error.reason})"
        raise TextError(f"{path}, line {line}: {what}; save it anew as UTF-8") from None


def read_text(path: Path) -> str:
    """The text of a whole file. Raises TextError, which names the first line that cannot be read."""
    with open_text(path) as file:
        text = file.read()
    fault = encoding_fault(text)
    if fault:
        for number, line in enumerate(text.split("\n"), 1):
            if fault := encoding_fault(line):
                raise TextError(f"{path}, line {number}: {fault}")
    return text


def encoding_fault(text: str) -> str:
    """What is wrong with the encoding of a text that `open_text` gave, and what to do; else empty."""
    if _ESCAPED_BYTES.search(text):
        return _not_utf8(text.encode("utf-8", errors="surrogateescape"))
    if "\0" in text:
        return "holds a NUL byte, as UTF-16 without its mark does; save the file as UTF-8"
    return ""


def text_fault(text: str) -> str:
    """What keeps a decoded text (from JSON or Arrow, say) from being one; else empty.

    Half of a surrogate pair has no form in UTF-8, though JSON can spell it; NUL is no character of a text.
    """
    if _SURROGATES.search(text):
        return "half of a surrogate pair, which is no character"
    return "a NUL character" if "\0" in text else ""


def _not_utf8(content: bytes) -> str:
    name = _guess_encoding(content)
    if not name:
        return "not UTF-8, nor any encoding that is known here; save the file as UTF-8"
    return f"not UTF-8, perhaps {name}; save the file as UTF-8 (`iconv -f {name} -t UTF-8 FILE > NEW`)"


def _guess_encoding(content: bytes) -> str:
    """The likeliest encoding of a line that is not UTF-8, by its name for iconv; empty where none fits."""
    runs = _HIGH_BYTES.findall(content)
    if all(len(run) == 1 for run in runs):  # accents among plain letters: no language of two bytes a letter
        return "WINDOWS-1252" if _decodes(content, "cp1252") else "LATIN1"
    if all(byte >= 0xC0 or byte in b"\xa8\xb8" for run in runs for byte in run):
        return "WINDOWS-1251"
    if _KANA.search(_decodes(content, "cp932")):
        return "CP932"
    korean = _decodes(content, "cp949")
    if korean and _HANGUL_ONLY.fullmatch(korean):
        return "CP949"
    names = {"gb18030": "GB18030", "big5": "BIG5", "cp1252": "WINDOWS-1252"}
    return next((name for codec, name in names.items() if _decodes(content, codec)), "")


def _decodes(content: bytes, codec: str) -> str:
    """The content decoded; empty where the codec does not fit."""
    try:
        return content.decode(codec)
    except UnicodeDecodeError:
        return ""
