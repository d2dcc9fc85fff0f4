"""Paths: what can be none is one line, and only files are replaced."""

from pathlib import Path

import pytest

from isrdpo.core import folders
from isrdpo.core.errors import RunError


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "an empty path"),
        ("~nobody-here/x", "~nobody-here is no user's folder; write the path out, or ./~nobody-here/x"),
        ("a\0b", r"'a\x00b': no path"),
        ("a\ud800b", r"'a\ud800b': no path"),
    ],
)
def test_what_can_be_no_path_is_one_line(path: str, says: str) -> None:
    with pytest.raises(RunError) as error:
        folders.resolve(path)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_folder_or_a_device_is_never_replaced_by_a_file(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/null")):
        with (
            pytest.raises(RunError, match="not a file, so nothing is written there"),
            folders.atomic_file(path),
        ):
            pass
    assert Path("/dev/null").is_char_device() and tmp_path.is_dir()
