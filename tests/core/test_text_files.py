"""Text is decoded or refused with its line; no byte becomes another."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isrdpo.core import records
from isrdpo.core.text_files import TextError, encoding_fault, open_text, read_text, text_fault

TEXT = "Où est le chat ?\n视频里有什么？\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_utf8_and_what_bears_its_mark_is_read(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT
    path.write_bytes(f'{{"question": "{TEXT.splitlines()[1]}"}}\r\n'.encode(encoding))
    assert records.read_jsonl(path, dict) == [{"question": "视频里有什么？"}]


@pytest.mark.parametrize(
    ("line", "encoding", "name"),
    [
        ("视频里有什么？", "gb18030", "GB18030"),
        ("Où est le café ? Voilà.", "cp1252", "WINDOWS-1252"),
        ("Was läuft über die Straße?", "cp1252", "WINDOWS-1252"),
        ("“What” is it?", "cp1252", "WINDOWS-1252"),
        ("動画には何がありますか？", "cp932", "CP932"),
        ("비디오에 무엇이 있습니까?", "cp949", "CP949"),
        ("Что происходит на видео?", "cp1251", "WINDOWS-1251"),
    ],
)
def test_another_encoding_is_guessed_and_its_line_named(
    tmp_path: Path, line: str, encoding: str, name: str
) -> None:
    path = tmp_path / "text"
    path.write_bytes(f"first\n{line}\n".encode(encoding))
    with pytest.raises(TextError, match=f"text, line 2: not UTF-8, perhaps {name}; .*iconv -f {name}"):
        read_text(path)
    path.write_bytes(b'{"a": 1}\n' + f'{{"a": "{line}"}}\n'.encode(encoding))
    with pytest.raises(records.RecordError, match=f":2: not UTF-8, perhaps {name}"):
        records.read_jsonl(path, dict)


def test_utf16_without_its_mark_or_cut_short_is_named(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes("What?\n".encode("utf-16-le"))
    with pytest.raises(TextError, match="line 1: holds a NUL byte, as UTF-16 without its mark"):
        read_text(path)
    path.write_bytes("Two\nlines".encode("utf-16")[:-1])
    with pytest.raises(TextError, match="line 2: begins with the mark of UTF-16, but is not UTF-16"):
        read_text(path)


def test_what_is_no_text_once_it_is_decoded() -> None:
    assert text_fault("日本 🎬") == ""
    assert "surrogate" in text_fault("\ud800")
    assert "NUL" in text_fault("a\0b")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(content=st.binary(max_size=40))
def test_any_bytes_are_read_as_they_are_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    try:
        with open_text(path, newline="") as file:
            text = file.read()
    except TextError:
        return
    if not encoding_fault(text):
        marks = [b"", b"\xef\xbb\xbf"] if not content.startswith((b"\xff\xfe", b"\xfe\xff")) else []
        encodings = ("utf-16", "utf-16-be", "utf-32", "utf-32-be")
        assert any(mark + text.encode() == content for mark in marks) or any(
            text == content.decode(encoding, errors="ignore").lstrip("\ufeff") for encoding in encodings
        )
