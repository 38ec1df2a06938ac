import hashlib
import os
import random
import re
import sys
import threading
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinojax.data import corpus
from dinojax.data.corpus import (
    MAX_NAME_LENGTH,
    STANDARD_INPUT,
    bundled_names,
    clean_names,
    longest_usual,
    read_names,
    read_running_text,
    read_text,
)
from dinojax.data.splits import split_names, split_text
from dinojax.data.text import INVISIBLE, MAX_MARKS, capitalized, composed, composed_start
from dinojax.data.vocab import build_vocab

seeded = settings(derandomize=True, deadline=None)
# Characters at which str.splitlines splits and a text file does not.
INNER = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "names.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.mark.parametrize("read", [read_text, read_names])
def test_a_missing_file_or_a_folder_is_an_os_error(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "missing"))):
        read(tmp_path / "missing")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        read(tmp_path)


@pytest.mark.parametrize("read", [read_text, read_names])
@pytest.mark.parametrize(
    ("content", "byte", "offset"),
    [
        (b"\xff", "0xff", 0),
        (b"rex\nmei\xe9\n", "0xe9", 7),
        (b"rex\n\xc3", "0xc3", 4),
        ("é\r\n".encode() + b"\x80", "0x80", 4),
        ("\ufeffrex".encode() + b"\xfe", "0xfe", 6),
        ("rex".encode("utf-16"), "0xff" if sys.byteorder == "little" else "0xfe", 0),
        (b"a\xed\xa0\x80", "0xed", 1),
        (b"a\xc0\x80", "0xc0", 1),
    ],
)
def test_what_is_not_utf_8_is_named_with_its_offset(read, content, byte, offset, write):
    path = write(content)
    message = re.escape(f"{path} is not UTF-8 text: byte {byte} at offset {offset};")
    with pytest.raises(ValueError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ("é\n".encode("utf-16"), "it begins as UTF-16 does; convert it from that to UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "it is no text file, or one in UTF-16, as it holds NUL"),
        (b"caf\xe9\n", "convert the file to UTF-8"),
    ],
)
def test_what_else_a_file_may_be_is_said(content, remedy, write):
    with pytest.raises(ValueError, match=f"at offset [03]; {remedy}$"):
        read_text(write(content))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("", ""),
        ("\ufeffrex\nmei", "rex\nmei"),
        ("\ufeff\ufeffrex", "rex"),
        ("rex\n\ufeffmei", "rex\nmei"),
        ("rex\r\nmei\r\n", "rex\nmei\n"),
        ("rex\rmei\r", "rex\nmei\n"),
        ("a\r\r\nb\n\rc\r\r", "a\n\nb\n\nc\n\n"),
        (f"a{INNER}b", f"a{INNER}b"),
        (" Rex \t\n", " Rex \t\n"),
        ("e\u0301\u0323", "\u1eb9\u0301"),
        ("\u212b\ufb01", "\u00c5\ufb01"),
    ],
)
def test_read_text_keeps_all_but_marks_line_ends_and_composition(content, text, write):
    assert read_text(write(content)).data == text


# What is read besides files.


@pytest.fixture
def pipe(tmp_path):
    """A function that opens a named pipe, into which a thread writes."""
    threads = []

    def pipe(content):
        path = tmp_path / "pipe"
        os.mkfifo(path)
        threads.append(threading.Thread(target=path.write_bytes, args=[content], daemon=True))
        threads[-1].start()
        return path

    yield pipe
    for thread in threads:
        thread.join()


def test_a_pipe_is_read_once_and_its_checksum_is_that_of_its_names(write):
    path = write("rex\nmei\n")
    end, other = os.pipe()
    os.write(other, path.read_bytes())
    os.close(other)
    assert read_names(Path(f"/dev/fd/{end}")) == read_names(path)
    os.close(end)


def test_a_dash_is_standard_input(write):
    path, before = write("rex\nmei\n"), os.dup(0)
    with open(path, "rb") as file:
        os.dup2(file.fileno(), 0)
    try:
        assert read_names(STANDARD_INPUT) == read_names(path)
        with pytest.raises(ValueError, match=r"^standard input: no names"):
            read_names(STANDARD_INPUT)
        os.fstat(0)
    finally:
        os.dup2(before, 0)
        os.close(before)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/full"])
def test_a_device_is_refused(device):
    with pytest.raises(ValueError, match=f"^{device} is a device; expected a file or a pipe$"):
        read_names(Path(device))


def test_a_pipe_is_read_up_to_a_limit(pipe, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_PIPE", 2**20)
    content = b"x\n" * 2**19
    path = pipe(content)
    assert len(read_names(path).data) == 2**19
    path.unlink()
    with pytest.raises(ValueError, match=r"pipe gave more than 1,048,576 bytes"):
        read_names(pipe(content + b"y"))


# What no text should hold.


@pytest.mark.parametrize("read", [read_text, read_names])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("ada\nbob\n".encode("utf-16-le"), "line 1 holds NUL; if the text is in UTF-16"),
        ("ada\r\nb\0b", "line 2 holds NUL"),
        (f"ada\n\ne{chr(0x301) * 101}", "line 3 holds 101 combining marks in a row; .* to 100"),
        (f"e{chr(0x301)}{chr(0x323)}" + "\u0302\u0323" * 1_000, "line 1 holds 2,002 combining"),
    ],
)
def test_what_is_no_text_is_refused_with_its_line(read, content, says, write):
    path = write(content)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: {says}"):
        read(path)


def test_marks_up_to_the_limit_are_read(write):
    name = "x" + "\u0323" * MAX_MARKS
    assert read_names(write(f"{name}\n{name}")).data == [name, name]


@pytest.mark.parametrize("character", INVISIBLE)
def test_invisible_characters_are_dropped_and_counted(character, write):
    path = write(f"\ufeff{character}re{character}x\n{character}e{character}\u0301os")
    names, _, notes = read_names(path)
    assert names == ["rex", "éos"]
    assert notes == ["4 invisible characters dropped"]
    assert read_running_text(path).data == "rex\néos"
    assert read_running_text(path).notes == notes


def test_joiners_that_scripts_need_are_kept(write):
    names = ["\u0645\u06cc\u200c\u062e", "\u0915\u094d\u200d\u0937", "a\u034fb", "\u200eab"]
    assert read_names(write("\n".join(names)))[::2] == (names, [])


def test_a_line_that_is_too_long_is_to_be_shortened_or_removed(write):
    message = (
        r"line 2: .* up to 1,000; is there one name a line\? If so, shorten or remove this one$"
    )
    with pytest.raises(ValueError, match=message):
        read_names(write("rex\n" + "x" * 1_001 + "\nmei\n"))


def test_what_happened_to_a_list_is_noted(write):
    assert read_names(write("\nrex\nREX\n\nmei\nrex")).notes == [
        "2 blank lines skipped",
        "2 duplicates kept",
    ]
    # The blank line and the comment give no name.
    assert read_names(write(" rex\nmei\t\n\u3000yi \r\nzoe\r\n \n# of \n")).notes[2:] == [
        "white space at the ends of 3 lines dropped"
    ]
    lines = ["rex"] * 60
    lines[16], lines[20] = "x" * 831, "y" * 33
    assert clean_names(lines)[1][1] == (
        "line 17 is far longer than the others, 831 characters, and so are 1 more"
    )
    lines[20] = "y" * 32
    assert read_names(write("\n".join(lines))).notes[1] == (
        "line 17 is far longer than the others, 831 characters"
    )


@pytest.mark.parametrize(
    ("lengths", "longest"),
    [
        ([5], 5),
        ([1_000], 1_000),
        ([0, 32], 32),
        ([0, 33], 0),
        ([*[10] * 19, 40], 40),
        ([*[10] * 20, 41], 10),
        ([*[10] * 10, 41, 41], 41),
        ([*[10] * 40, 41, 41], 10),
        ([*range(1, 101)], 100),
    ],
)
def test_which_names_are_far_longer_than_the_others(lengths, longest):
    assert longest_usual(["x" * length for length in lengths]) == longest
    assert longest_usual(["x" * length for length in reversed(lengths)]) == longest


@pytest.mark.parametrize("content", ["", "\n", "\ufeff", "\r\n\r\n", " \t\n\n\u3000\n"])
def test_a_file_without_a_name_is_refused(content, write):
    path = write(content)
    with pytest.raises(ValueError, match=re.escape(f"{path}: no names")):
        read_names(path)


@pytest.mark.parametrize(
    ("content", "names", "num_blank"),
    [
        ("rex", ["rex"], 0),
        ("rex\n", ["rex"], 0),
        ("rex\n\n", ["rex"], 1),
        ("rex\n \t", ["rex"], 1),
        ("\nrex\n\n\nmei", ["rex", "mei"], 3),
        ("\r\n rex\r\n \r\nmei\r\n", ["rex", "mei"], 2),
        ("rex\r\rmei\r", ["rex", "mei"], 1),
        ("\ufeffRex\n", ["rex"], 0),
        ("  T. REX\t\n\u3000YI\xa0", ["t. rex", "yi"], 0),
        ("rex\nREX\nrex", ["rex", "rex", "rex"], 0),
        ("E\u0301os\n\u00c9os", ["éos", "éos"], 0),
        (f"a{INNER}b\nc", [f"a{INNER}b", "c"], 0),
        ("\u2028a\x85\n\x0b\nc", ["a", "c"], 1),
    ],
)
def test_names_are_lines_stripped_and_in_lower_case(content, names, num_blank, write):
    path = write(content)
    assert read_names(path)[:2] == (names, hashlib.sha256(path.read_bytes()).hexdigest())
    notes = [note for note in read_names(path).notes if "blank" in note]
    expected = f"{num_blank} blank line{'s' * (num_blank > 1)} skipped"
    assert notes == ([expected] if num_blank else [])


def slow_read_names(text):
    lines, line, previous = [], "", ""
    for character in text:
        if character in INVISIBLE or (character == "\n" and previous == "\r"):
            pass
        elif character in "\r\n":
            lines.append(line)
            line = ""
        else:
            line += character
        previous = "" if character in INVISIBLE else character
    if line:
        lines.append(line)
    cleaned = [unicodedata.normalize("NFC", line).strip() for line in lines]
    comment = re.compile(r"#(?:$|[ \t#!])")
    names = [
        unicodedata.normalize("NFC", name.lower())
        for name, line in zip(cleaned, lines, strict=True)
        if name and not comment.match("".join(c for c in line if c not in INVISIBLE))
    ]
    return names


@seeded
@given(
    st.text(
        st.one_of(
            st.sampled_from("aBÉ#!\r\n\n \t\u0301İΣ\ufeff" + INNER), st.characters(codec="utf-8")
        )
    )
)
@example("\r\n\r\r\n\n")
@example("#\n#a\n # a\n#\u00ad\n# b\n#\tc\n##d\n#!e\n#\u0301 f")
def test_names_are_those_a_loop_over_the_characters_finds(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("data") / "names.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    names = slow_read_names(text)
    if "\0" in text:
        with pytest.raises(ValueError, match="holds NUL"):
            read_names(path)
    elif names:
        assert read_names(path).data == names
    else:
        with pytest.raises(ValueError, match="no names"):
            read_names(path)


def test_a_name_has_up_to_a_thousand_characters(write):
    assert MAX_NAME_LENGTH == 1_000
    longest = ["x" * 1_000, "é" * 1_000, "\U0001f995" * 1_000]
    composed = "e\u0301" * 1_000
    path = write(f"{longest[0]}\n   {composed}\t\n{longest[2]}")
    assert read_names(path).data == longest


def test_a_longer_name_is_refused_with_its_line_and_length(write):
    path = write("rex\r\n\r\n" + "x" * 1_001 + "\r\nmei\r\n")
    with pytest.raises(ValueError, match=re.escape(f"{path}: line 3: a name of 1,001 characters")):
        read_names(path)


@seeded
@given(st.text(st.characters(exclude_characters="\0")))
@example("İΑΣ\u0345\u212a")
def test_lower_case_is_idempotent_and_composed(text):
    lower = composed(text, True)
    assert composed(lower, True) == lower
    assert unicodedata.is_normalized("NFC", lower)


@pytest.mark.parametrize(
    ("text", "lower"),
    [("T. Rex", "t. rex"), ("ÉOS", "éos"), ("E\u0301OS", "éos"), ("ΟΣ", "ος"), ("\u212a", "k")],
)
def test_lower_case(text, lower):
    assert composed(text, True) == lower


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("", ""),
        ("a", "A"),
        ("rex mei", "Rex mei"),
        ("éos", "Éos"),
        ("9lives", "9lives"),
        ("\U00010428a", "\U00010400a"),
        ("ßx", "ßx"),
        ("\ufb01x", "\ufb01x"),
        ("\u10d0\u10d1", "\u10d0\u10d1"),
        ("\u01c6e", "\u01c5e"),
        ("i\u0307zmir", "\u0130zmir"),
        ("\u0131r", "Ir"),
        ("\u0301a", "\u0301a"),
    ],
)
def test_capitalized_changes_the_first_letter_only(name, printed):
    assert capitalized(name) == printed


@seeded
@given(st.text())
@example("i\u0307\u0323")
def test_capitalized_is_composed_and_keeps_the_rest(name):
    name = unicodedata.normalize("NFC", name)
    printed = capitalized(name)
    assert unicodedata.is_normalized("NFC", printed)
    if not unicodedata.combining(name[1:2] or "a"):
        assert printed[1:] == name[1:]


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        ("", ""),
        ("\ufeffRex\r\nE\u0301", "rex\n\u00e9"),
        ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c3"),
        ("\u039f\u03a3 \u039c", "\u03bf\u03c2 \u03bc"),
        ("\u03bf\u03c2", "\u03bf\u03c2"),
    ],
)
def test_a_start_is_read_like_data_but_does_not_end_a_word(typed, read):
    assert composed_start(typed, True) == read
    assert composed_start("\u03a3E\u0301", False) == "\u03a3\u00c9"


def test_a_running_text_is_composed_and_never_empty(write):
    path = write("\ufeffE\u0301os\r\n  REX\n\n")
    assert read_running_text(path).data == "\u00c9os\n  REX\n\n"
    assert read_running_text(path, lowercase=True).data == "\u00e9os\n  rex\n\n"
    with pytest.raises(ValueError, match=r"names\.txt is empty; expected a text"):
        read_running_text(write("\ufeff"))


# Splits.

FRACTIONS = st.sampled_from([0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.9])
MANY = [f"name {i}" for i in range(100)]


def wanted(fraction, num):
    """How many things a fraction asks for."""
    return 0 if fraction == 0 else max(1, round(fraction * num))


@seeded
@given(
    st.lists(st.text("abc", max_size=3), min_size=1, max_size=40),
    FRACTIONS,
    FRACTIONS,
    st.integers(0, 2**32 - 1),
)
@example(["a"], 0.1, 0.0, 0)
@example(["a", "b"], 0.1, 0.1, 0)
@example(["a", "b", "c", "a"], 0.1, 0.1, 0)
def test_parts_share_no_name_and_hold_all_copies_in_order(names, validation, test, seed):
    num = len(set(names))
    sizes = wanted(validation, num), wanted(test, num)
    if sum(sizes) >= num:
        with pytest.raises(ValueError, match=f"no data would be left to learn from, of {num} "):
            split_names(names, validation, test, seed)
        return
    parts = split_names(names, validation, test, seed)
    distinct = [set(part) for part in parts]
    assert [len(part) for part in distinct] == [num - sum(sizes), *sizes]
    assert len(set.union(*distinct)) == num
    for part, of_part in zip(parts, distinct, strict=True):
        assert part == [name for name in names if name in of_part]
    assert Counter(names) == sum(map(Counter, parts), Counter())


def test_a_split_depends_on_the_seed_and_not_on_the_order():
    first = split_names(MANY, 0.2, 0.1, 0)
    assert first == split_names(MANY, 0.2, 0.1, 0)
    assert [len(part) for part in first] == [70, 20, 10]
    shuffled = random.Random(0).sample(MANY, 100)
    for part, other in zip(first, split_names(shuffled, 0.2, 0.1, 0), strict=True):
        assert part != other
        assert sorted(part) == sorted(other)
    # Nor on how often a name occurs.
    repeated = split_names(MANY + MANY[:50], 0.2, 0.1, 0)
    assert list(map(set, repeated)) == list(map(set, first))
    splits = [split_names(MANY, 0.2, 0.1, seed) for seed in range(20)]
    for i in range(3):
        assert len({tuple(split[i]) for split in splits}) == 20


@pytest.mark.parametrize("seed", range(3))
def test_names_learned_before_are_held_out_only_where_no_others_are_left(seed):
    for num_new in 0, 3, 7, 15, 30, 60:
        new, learned = MANY[:num_new], [*MANY[num_new:60], "other"]
        train, validation, test = split_names(MANY[:60], 0.2, 0.1, seed, learned)
        assert (len(train), len(validation), len(test)) == (42, 12, 6)
        assert sorted(train + validation + test) == sorted(MANY[:60])
        assert len(set(test) & set(new)) == min(6, num_new)
        assert len(set(test + validation) & set(new)) == min(18, num_new)
    held_out = {tuple(split_names(MANY, 0.2, 0.1, x, MANY[:50])[1]) for x in range(9)}
    assert len(held_out) == 9


def test_every_name_is_as_likely_in_each_part():
    counts = Counter()
    for seed in range(2_000):
        for i, part in enumerate(split_names(MANY[:10], 0.3, 0.2, seed)):
            counts.update((i, name) for name in part)
    for i, share in enumerate([0.5, 0.3, 0.2]):
        deviation = (2_000 * share * (1 - share)) ** 0.5
        for name in MANY[:10]:
            assert abs(counts[i, name] - 2_000 * share) < 5 * deviation


def test_fractions_of_zero_leave_all_to_learn_from():
    names = ["b", "a", "b"]
    assert split_names(names, 0.0, 0.0, 0) == (names, [], [])
    assert split_text("abc", 0.0, 0.0) == ("abc", "", "")


def test_a_tiny_list_still_gets_one_of_each():
    parts = split_names(["a", "b", "c"], 0.01, 0.01, 0)
    assert [len(part) for part in parts] == [1, 1, 1]
    assert split_text("abc", 0.01, 0.01) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("names", "num"), [(["a", "b"], "2"), (["a", "a", "b"], "2"), (MANY * 20, "100")]
)
def test_a_split_that_leaves_no_name_is_refused_with_their_number(names, num):
    with pytest.raises(ValueError, match=f"left to learn from, of {num} distinct names;"):
        split_names(names, 0.5, 0.5, 0)


@seeded
@given(st.text(min_size=1, max_size=60), FRACTIONS, FRACTIONS)
@example("a", 0.1, 0.0)
@example("ab", 0.1, 0.1)
def test_the_parts_of_a_text_follow_each_other(text, validation, test):
    sizes = wanted(validation, len(text)), wanted(test, len(text))
    if sum(sizes) >= len(text):
        with pytest.raises(ValueError, match=rf"left to learn from, of {len(text)} characters?;"):
            split_text(text, validation, test)
        return
    parts = split_text(text, validation, test)
    assert "".join(parts) == text
    assert [len(part) for part in parts] == [len(text) - sum(sizes), *sizes]


def test_bundled_names_are_as_their_readme_promises():
    content = bundled_names().read_bytes()
    lines = content.decode().removesuffix("\n").split("\n")
    assert content.endswith(b"\n")
    assert len(lines) == 1538
    assert all(re.fullmatch("[A-Z][a-zA-Z]{1,22}", line) for line in lines)
    assert [line.lower() for line in lines] == sorted({line.lower() for line in lines})
    assert {len(line) for line in lines} >= {2, 23}


def test_bundled_names_are_read_as_letters_without_blanks():
    names, _, notes = read_names(bundled_names())
    assert not notes
    assert len(names) == len(set(names)) == 1538
    assert build_vocab(names).characters == "\nabcdefghijklmnopqrstuvwxyz"


def test_bundled_names_are_beside_the_package_or_installed_in_it(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "__file__", str(tmp_path / "dinojax" / "data" / "corpus.py"))
    assert bundled_names() == tmp_path / "data" / "dinos.txt"
    installed = tmp_path / "dinojax" / "bundled" / "dinos.txt"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert bundled_names() == installed
