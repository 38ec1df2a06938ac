"""What the scripts share, where a process of its own would show no more."""

import pytest

from dinojax.cli.arguments import join_negative_numbers
from dinojax.cli.terminal import visible
from dinojax.files import check_writable


def test_control_characters_are_shown_as_escapes():
    assert visible("a\x1b[31mb\tc\x9bd\x7f") == "a\\x1b[31mb\\tc\\x9bd\\x7f"
    for text in ("Tyrannosaurus", "Щит é 日本語 \U0001f995 a\u200db", "a\u2028b"):
        assert visible(text) == text


def test_negative_numbers_belong_to_the_flag_before_them():
    assert join_negative_numbers(["--rate", "-1e-3", "-2", "-x"]) == ["--rate=-1e-3", "-2", "-x"]
    assert join_negative_numbers(["-3", "--rate", "5", "-inf"]) == ["-3", "--rate", "5", "-inf"]


def test_whether_a_file_can_be_written_is_found_out_without_a_trace(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("text")
    check_writable(new)
    check_writable(old)
    assert not new.exists()
    assert old.read_text() == "text"
    with pytest.raises(OSError, match="none"):
        check_writable(tmp_path / "none" / "file")
