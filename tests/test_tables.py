"""Lists of names as people have them: tables, counts, comments, and what they look like."""

import csv
import gzip
import io
import json
import shutil
import unicodedata
from itertools import chain, repeat

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dinojax.cli.terminal import Program
from dinojax.config import TrainConfig
from dinojax.data import corpus, prepared, sources
from dinojax.data.batches import packed, padded
from dinojax.data.corpus import bundled_names, read_names, read_running_text
from dinojax.data.looks import columns_in, first_lines, looks_like
from dinojax.data.prepared import finished, prepare
from dinojax.data.reading import read
from dinojax.data.splits import split_names
from dinojax.data.stored import NameList, num_characters
from dinojax.data.tables import (
    WHOLE_LINES,
    Columns,
    columns_of,
    is_comment,
    is_row,
    layout_of,
    row_text,
    rows_of,
)
from dinojax.presets import resolve, resolve_resumed
from dinojax.runs import folder as runs
from dinojax.runs.description import describe
from dinojax.runs.references import find_store, reference_to, referenced
from dinojax.runs.replica import read_data

from in_process import call_here

seeded = settings(max_examples=60, deadline=None, derandomize=True)
TABLE = """\
# first names, 2024
Name;Sex;Births
Anna;f;3
"Lee; Ann";f;2

Otto;m;1
Kim;m;0
Bea;f;4
Anna;m;1
Cleo;f;2
Dora;f;1
Egon;m;2
Ada;f;3
"""
REPEATED = [
    *["anna"] * 3, *["lee; ann"] * 2, "otto", *["bea"] * 4, "anna", *["cleo"] * 2, "dora",
    *["egon"] * 2, *["ada"] * 3,
]  # fmt: skip
COUNTED = {"column": "name", "count_column": "births"}
NOTES = [
    "1 blank line skipped",
    "1 comment line skipped",
    "1 zero count skipped",
    "1 duplicate kept",
    "9 rows counted as 19 names",
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dinojax" / "data"


@pytest.fixture
def write(tmp_path):
    def write(text, name="table.csv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture
def pair(write):
    """A table with counts, and the list that it stands for."""
    return write(TABLE), write("".join(f"{name}\n" for name in REPEATED), "list.txt")


def parsed(text, *columns):
    lines = text.split("\n")
    return rows_of(lines, layout_of(lines, Columns(*columns)))


# Rows.

FIELDS = st.text(st.sampled_from('aB é,;\t"#'), min_size=1).filter(str.strip)


@seeded
@given(
    st.lists(st.tuples(st.integers(1, 10**9), FIELDS, FIELDS), min_size=1, max_size=8),
    st.sampled_from(",;\t"),
    st.booleans(),
)
def test_rows_hold_what_the_csv_module_wrote(rows, delimiter, has_header):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    # The first line has no other delimiter.
    writer.writerows([("births", "name", "sex") if has_header else (7, "ada", "f"), *rows])
    wanted = ("name", "births", "sex") if has_header else ("2", "1", "3")
    found = parsed(file.getvalue().removesuffix("\n"), *wanted)
    counts, names, labels = zip(*rows, strict=True)
    assert found.names[1:] == [name.strip() for name in names]
    assert found.counts == [0 if has_header else 7, *counts]
    assert found.labels[1:] == [label.strip() for label in labels]
    assert not sum(found.skipped.values())


@seeded
@given(st.lists(st.text(st.sampled_from('a"\t# ,'), max_size=4).map(str.strip), min_size=2))
@example(["# a", "b"])
@example(['"a', "b"])
def test_rows_hold_what_was_written(fields):
    name, label = (field or "x" for field in fields[:2])
    rows = parsed(row_text(name, label), "1", "", "2")
    assert (rows.names, rows.labels) == ([name], [label])


@pytest.mark.parametrize(
    ("text", "columns", "names", "counts"),
    [
        ("Name,N\nada,2", ("name", "n"), ["", "ada"], [0, 2]),
        ("NAME , n\nada,2", (" Name", ""), ["", "ada"], None),
        ("ada,2\nbob,1", ("1", ""), ["ada", "bob"], None),
        ("ada,2\nbob,1", ("", "2"), ["ada", "bob"], [2, 1]),
        ("name,n\nada,2", ("1", "2"), ["", "ada"], [0, 2]),
        ("name,n\nada,2", ("1", "n"), ["", "ada"], [0, 2]),
        ("name,n\nada,2", ("1", ""), ["name", "ada"], None),
        ("# a,b\n\nname\tn\nada\t2", ("name", "n"), ["", "", "", "ada"], [0, 0, 0, 2]),
        ("ada\n#bob\n# eve", ("1", ""), ["ada", "#bob", ""], None),
        ("name\nada\nbob", ("name", ""), ["", "ada", "bob"], None),
        ("name\nada, a\nbob", ("name", ""), ["", "ada, a", "bob"], None),
        ("1;5\t2;5\n2;5\t3", ("1", ""), ["1;5", "2;5"], None),
        ('name, n\n"ada, a", "2"', ("name", "n"), ["", "ada, a"], [0, 2]),
        (" ;3\nada;4", ("1", "2"), ["", "ada"], [0, 4]),
        ("", ("name", "n"), [""], None),
    ],
)
def test_columns_are_found_by_name_or_number(text, columns, names, counts):
    found = parsed(text, *columns)
    assert found.names == names
    assert found.counts == counts


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("name,sex\nada,f", ("nam",), "there is no column 'nam'; the first row has 'name', 'sex'"),
        ("name,sex\nada,f", ("3",), "there is no column 3; the first row has 2 fields"),
        ("name,sex\nada,f", ("0",), "there is no column 0"),
        ("a,A\nada,f", ("a",), "two columns are called 'a'"),
        ("a,n\nada,f\nbob,-1", ("a", "n"), "line 2: a count is a whole number, .* got 'f'"),
        ("a,n\nada,2\nbob,-1", ("a", "n"), "line 3: a count .* got '-1'"),
        ("a,n\nada,2\nbob,1.5", ("a", "n"), "line 3: a count .* got '1.5'"),
        ("a,n\nada,2\nbob,", ("a", "n"), "line 3: a count .* got ''"),
        ("a,n\nada,2\nbob,\u0662", ("a", "n"), "line 3: a count"),
        (f"a,n\nada,{'9' * 13}", ("a", "n"), "line 2: a count"),
        ("a,n\n\nada\nbob,1", ("a",), "line 3: expected 2 fields, as in the first row, got 1"),
        ("a;n\nada;1;2", ("a",), "line 2: .*2 fields.* got 3; put double quotes .* a semicolon"),
        ('a,n\n"ada\nbob",1', ("a",), "line 2: a double quote is not closed"),
        ('a,n\n"ada" a,1', ("a",), "line 2: a row that cannot be read"),
        ("a,s\nada,f\nbob, ", ("a", "", "s"), "line 3: expected a label, got none"),
    ],
)
def test_a_row_that_is_not_suitable_is_an_error_with_its_line(text, columns, message, write):
    with pytest.raises(ValueError, match=message):
        parsed(text, *columns)
    path = write(text)
    names = dict(zip(("column", "count_column", "label_column"), columns, strict=False))
    with pytest.raises(ValueError, match=f"table.csv: {message}"):
        read_names(path, **names)


@pytest.mark.parametrize("line", ["#", "# a", "#\ta", "##", "#!a", "## a"])
def test_comments_are_lines_that_begin_with_a_sign_and_a_space(line, write):
    assert is_comment(line)
    file = write(f"{line}\nrex\n #x\n#mei\n#1\n")
    notes = ["1 comment line skipped", "white space at the ends of 1 line dropped"]
    assert read_names(file)[::2] == (["rex", "#x", "#mei", "#1"], notes)
    assert read_running_text(file).data.startswith(line)


# Counts.


@seeded
@given(st.lists(st.tuples(st.sampled_from(["ada", "bob", "eve"]), st.integers(0, 4)), max_size=9))
def test_a_count_stands_for_as_many_lines(tmp_path_factory, rows):
    table, lines = (tmp_path_factory.getbasetemp() / name for name in ("t.tsv", "l.txt"))
    table.write_text("".join(f"{num}\t{name}\n" for name, num in [*rows, ("zoe", 2)]))
    lines.write_text("".join(f"{name}\n" * num for name, num in [*rows, ("zoe", 2)]))
    assert read_names(table, column="2", count_column="1").data == read_names(lines).data


def test_all_copies_of_a_name_are_one_string_and_go_to_one_part(pair):
    names, _, notes = read_names(pair[0], **COUNTED)
    assert names == REPEATED
    assert notes == NOTES
    assert names[0] is names[2]
    for seed in range(5):
        parts = split_names(names, 0.3, 0.2, seed)
        assert sum(len(set(part)) for part in parts) == len(set(names))


def test_counts_that_stand_for_too_many_names_are_refused(pair, monkeypatch):
    monkeypatch.setattr(corpus, "MAX_REPEATED", 9)
    message = "table.csv: the counts stand for 19 names; expected up to 9; divide them by 3 or more"
    with pytest.raises(ValueError, match=message):
        read_names(pair[0], **COUNTED)
    for in_memory in (0, 50, 2**25):
        with pytest.raises(ValueError, match=message):
            read_counted([pair[0]], in_memory)
    # A list without counts may be longer.
    assert len(read_names(pair[1]).data) == 19


SMALL = (
    "--steps=20", "--epochs=0", "--cell=vanilla", "--num-layers=1", "--hidden-size=8",
    "--dropout=0", "--batch-size=4", "--validation-fraction=0.3",
)  # fmt: skip


@pytest.fixture(scope="module", params=["padded", "packed"])
def trained(request, tmp_path_factory):
    """Runs on a table with counts, and on the list that it stands for."""
    place = tmp_path_factory.mktemp(request.param)
    (place / "table.csv").write_text(TABLE)
    (place / "list.txt").write_text("".join(f"{name}\n" for name in REPEATED))
    for file, *more in (("table.csv", "--column=Name", "--count-column=Births"), ("list.txt",)):
        arguments = f"--batches={request.param}", f"--data={file}", f"--out=run-{file}", *SMALL
        done = call_here(Program("train", "dinojax"), "names", *arguments, *more, cwd=place)
        assert done.code == 0, done.err
    return place


def test_a_run_with_counts_has_the_bits_of_one_on_repeated_lines(trained):
    first, second = (
        runs.load_checkpoint(trained / f"run-{file}", "last") for file in ("table.csv", "list.txt")
    )
    assert first[0].tally == second[0].tally
    assert first[0].description.parts == second[0].description.parts
    for name in second[1]:
        np.testing.assert_array_equal(first[1][name], second[1][name])
    assert columns_of(first[0].config) == Columns("Name", "Births")


def test_losses_weigh_a_name_by_its_count_and_scores_do_not(trained):
    def figures(command, *arguments):
        arguments = "run-table.csv", *arguments, "--json"
        done = call_here(Program(command, "dinojax"), *arguments, cwd=trained)
        assert done.code == 0, done.err
        return done.out

    table, repeated = (
        json.loads(figures("evaluate", f"--data={file}"))["models"]
        for file in ("table.csv", "list.txt")
    )
    assert table == repeated
    assert table[0]["num_pieces"] == 19
    (trained / "other.csv").write_text("Births,Name\n3,Ada\n1,Bea\n")
    for flags, num in (((), 4), (("--column=name",), 2), (("--column=2", "--count-column=1"), 4)):
        found = json.loads(figures("evaluate", "--data=other.csv", *flags))
        assert found["models"][0]["num_pieces"] == num
    assert len(figures("score", "--file=other.csv").splitlines()) == 2


# Prepared.


def read_counted(files, in_memory):
    ways = {"is_text": False, "lowercase": True, "columns": Columns(**COUNTED)}
    return finished(read(files, **ways, in_memory=in_memory))


@pytest.fixture
def small_blocks(monkeypatch):
    chunks = sources._chunks
    monkeypatch.setattr(sources, "_chunks", lambda stream: chunks(stream, 16))
    monkeypatch.setattr(sources.blocks, "__defaults__", (16,))


def test_a_prepared_table_is_that_in_memory(pair, small_blocks):
    file, _ = pair
    size = file.stat().st_size
    stored, also, names = (read_counted([file], most) for most in (0, size, 2**25))
    assert isinstance(stored.data, NameList)
    # What the counts stand for is larger than the file.
    assert num_characters(names.data) < size
    assert isinstance(also.data, list)
    assert list(stored.data) == names.data == REPEATED
    assert stored.notes == names.notes == NOTES
    assert stored.sha256 == names.sha256
    assert num_characters(stored.data) == num_characters(names.data)
    for learned in ((), ["bea", "ada"]):
        parts = [split_names(x.data, 0.3, 0.2, 1, learned) for x in (stored, names)]
        assert list(map(list, parts[0])) == list(parts[1])
    vocab = stored.data.vocab
    for make in (lambda x: padded(x, vocab, 3), lambda x: packed(x, vocab, 2, 9)):
        one, other = make(stored.data), make(names.data)
        assert one[1:3] == other[1:3]
        order = [x.arrange(np.arange(x.num_shuffled))[:] for x in (one, other)]
        found = (
            one.read(order[0].reshape(-1)),
            [a[..., order[1].reshape(-1)] for a in other.examples],
        )
        list(map(np.testing.assert_array_equal, *found))


def test_counts_tell_which_names_are_far_longer_than_others(write):
    long = [letter * 60 for letter in "abc"]
    table = write("name,births\nada,100\n" + "".join(f"{name},1\n" for name in long))
    lines = write("ada\n" * 100 + "".join(f"{name}\n" for name in long), "lines.txt")
    stored, names = (read_counted([table], most) for most in (0, 2**25))
    assert stored.notes == names.notes
    assert names.notes[1].startswith("line 3 is far longer than the others, 60 characters, and so")
    assert "line 101 is far longer" in read_names(lines).notes[1]


def test_counts_that_stand_for_much_are_prepared(write):
    file = write("name,n\n" + "".join(f"{name},900\n" for name in ("ada", "bob", "eve")))
    found = finished(
        read([file], is_text=False, lowercase=True, columns=Columns("name", "n"), in_memory=9_999)
    )
    assert isinstance(found.data, NameList)
    assert len(found.data.store.ids) == 12
    assert list(found.data) == [*chain(*(repeat(name, 900) for name in ("ada", "bob", "eve")))]


def test_a_preparation_of_a_table_goes_on_and_a_run_refers_to_it(pair, small_blocks, cache):
    ways = {"is_text": False, "lowercase": True}
    columns = {"columns": Columns(**COUNTED)}
    files = [pair[0], pair[0]]
    expected = finished(prepare(files, **ways, **columns))
    content = {x.name: x.read_bytes() for x in sorted((cache / expected.key).iterdir())}
    shutil.rmtree(cache)
    for num in (3, 7, 12, 20, 30):
        started = prepare(files, **ways, **columns, save_every=1)
        list(zip(range(num), started, strict=False))
        started.close()
    store = finished(prepare(files, **ways, **columns))
    assert store.key == expected.key
    assert {x.name: x.read_bytes() for x in sorted((cache / store.key).iterdir())} == content
    # The parts of a run refer to it, and it is made again where it is gone.
    names = prepared.whole(store)
    for part in split_names(names, 0.3, 0.2, 1):
        reference = reference_to(part)
        shutil.rmtree(cache)
        again = referenced(reference, finished(find_store(reference, **ways)), names.vocab)
        assert list(again) == list(part)


def test_a_run_refers_to_a_list_that_was_prepared_when_comments_were_names(write, cache):
    file = write("rex\n# mei\n\nanna\n", "list.txt")
    ways = {"is_text": False, "lowercase": True}
    before = finished(prepare([file], **ways, columns=None))
    rules = [1, unicodedata.unidata_version, False, True, [""], before.sha256]
    assert before.key == sources.joint_checksum([json.dumps(rules), ""])[:32]
    names = prepared.whole(before)
    assert list(names) == ["rex", "# mei", "anna"]
    reference = reference_to(names)
    assert "columns" not in json.loads(reference)
    shutil.rmtree(cache)
    again = referenced(reference, finished(find_store(reference, **ways)), names.vocab)
    assert list(again) == list(names)
    now = finished(prepare([file], **ways))
    assert list(prepared.whole(now)) == ["rex", "anna"]
    assert now.notes == ("1 blank line skipped", "1 comment line skipped")


# Files and settings.


def test_each_of_several_files_has_its_own_header(write):
    files = [
        write("births,name\n2,ada\n", "a.csv"),
        write("", "b.csv"),
        write("# no names here\n", "c.csv"),
        write("Name\tSex\tBirths\nbob\tm\t1\n", "d.csv"),
    ]
    for in_memory in (0, 2**25):
        found = read_counted(files, in_memory)
        assert list(found.data) == ["ada", "ada", "bob"]
    with pytest.raises(ValueError, match=r"e\.csv: there is no column 'births'"):
        read_counted([*files, write("name\nada\n", "e.csv")], 2**25)
    with pytest.raises(ValueError, match=r"f\.csv: line 2: a count"):
        read_counted([*files, write("name,births\nada,x\n", "f.csv")], 0)


@pytest.mark.parametrize(
    ("first", "row", "columns", "name"),
    [
        ("Born;Who", "{};a", Columns("2"), "Who"),
        ("who,share", "a,1.{}%", Columns("1"), "who"),
        ("Name,kind", "a,x{}", Columns("1"), "Name"),
        ("Name,kind", "a,x{}", Columns("1", "", "2"), "Name"),
        # By its name, it is a header; here is none.
        ("Name,kind", "a,x{}", Columns("name"), ""),
        ("eve,y", "a,x{}", Columns("1"), ""),
        ("eve,7", "a,{}", Columns("1"), ""),
    ],
)
def test_a_header_that_is_read_as_a_name_is_noted(first, row, columns, name, write):
    file = write("\n".join([first, *map(row.format, range(9))]))
    found = finished(read([file], columns=columns, is_text=False, lowercase=False))
    notes = [note for note in found.notes if note.startswith("the first row")]
    says = f"the first row is read as the name '{name}'; if it names the columns, choose one by "
    assert notes == ([f"{says}its name"] if name else [])


def test_the_columns_are_settings_of_a_run(pair):
    config = resolve("dinos", given=COUNTED)
    names, _ = read_data(str(pair[0]), config)
    assert names == REPEATED
    description, _, _ = describe(config, names)
    assert description.config.count_column == "births"
    with pytest.raises(ValueError, match="column: for a list of names; a text has none"):
        resolve("text", given={"column": "1"})
    with pytest.raises(ValueError, match="count column: the run has births, got none; a resumed"):
        resolve_resumed(config, {"count_column": ""})
    assert columns_of(TrainConfig()) == WHOLE_LINES


def test_other_data_are_read_by_the_columns_of_the_run_if_they_have_them(pair, write, tmp_path):
    counted = Columns("name", "births")
    assert columns_in(pair[0], counted) == counted
    assert columns_in(pair[1], counted) == WHOLE_LINES
    assert columns_in(pair[0], Columns("name", "deaths")) == WHOLE_LINES
    assert columns_in(write("Name\nada\n", "one.csv"), Columns("name")) == Columns("name")
    assert columns_in(write("ada\nbob, jr.\n", "names.txt"), Columns("1")) == WHOLE_LINES
    (tmp_path / "folder").mkdir()
    shutil.copy(pair[0], tmp_path / "folder")
    assert columns_in(tmp_path / "folder", counted) == counted


# What data look like.

TITLES = (
    "The Old Man and the Sea",
    "War and Peace",
    "Emma",
    "One Hundred Years of Solitude",
    "Ulysses",
)
COMPANIES = "Apple Inc.", "Bank of America Corp.", "3M", "Alphabet Inc.", "Yahoo!", "AT&T"
PROSE = "It was a dark night.", "Rain fell,", "and nobody", "was in the street but one", "old dog."
CODE = "def f(x):", "    return x", "", "class A:", "    b = 1", "    c = 2"


@pytest.mark.parametrize(
    ("lines", "looks"),
    [
        ((), "names"),
        (TITLES, "names"),
        (COMPANIES, "names"),
        (PROSE, "text"),
        (["Forsooth this maketh no sense", "And yet it rhymes"], "text"),
        (CODE, "text"),
        (["x " * 20], "text"),
        ([f"Word{i} " * 19 for i in range(9)], "names"),
        (TABLE.split("\n"), "table"),
        (TABLE.split("\n")[:5], "names"),
        ([f"{name}\t{i}" for i, name in enumerate(TITLES)], "table"),
        ([*(f"{i},a" for i in range(9)), "b"], "table"),
        ([*(f"{i},a" for i in range(8)), "b", "c"], "names"),
    ],
)
def test_names_texts_and_tables_are_told_apart(lines, looks):
    assert looks_like(lines) == looks
    # Further lines do not count.
    many = [*filter(is_row, lines)] * 100
    assert looks_like([*many[:100], *PROSE * 500 * bool(many)]) == looks_like(many)


def test_files_look_like_what_they_are(tmp_path):
    for content, looks in (
        (bundled_names().read_bytes(), "names"),
        (f"\ufeff{TABLE}".replace("\n", "\r\n").encode(), "table"),
        ("\n".join(PROSE).encode("latin-1") + b"\xe9", "text"),
        (b"", "names"),
    ):
        assert looks_like(first_lines(content)) == looks
        for name in "file", "file.gz":
            (tmp_path / name).write_bytes(gzip.compress(content) if name[4:] else content)
            assert sources.beginning(tmp_path / name, 2**16) == content[: 2**16]
            assert sources.beginning(tmp_path / name, 5) == content[:5]


def test_a_note_says_what_data_look_like(write, tmp_path):
    table, prose, names = (
        write(TABLE),
        write("\n".join(PROSE), "prose"),
        write("\n".join(TITLES), "n"),
    )
    hint = "it looks like a table of 3 columns; choose the column of the names"
    for file, is_text, expected in (
        (table, False, [hint]),
        (prose, False, ["it looks like a text, not a list of names"]),
        (names, False, []),
        (table, True, []),
        (prose, True, []),
        (names, True, ["it looks like a list of names, not a text"]),
    ):
        for in_memory in (0, 2**25):
            found = finished(read([file], is_text=is_text, lowercase=False, in_memory=in_memory))
            assert [note for note in found.notes if "looks" in note] == expected
        found = (read_running_text if is_text else read_names)(file)
        assert [note for note in found.notes if "looks" in note] == expected
    header = (
        "the first row is read as the name 'Name'; if it names the columns, choose one by its name"
    )
    notes = [*NOTES[:2], "1 duplicate kept", header]
    assert sorted(read_names(table, column="1").notes) == sorted(notes)
    flags = f"--data={table}", "--steps=2", "--hidden-size=2", "--out=run"
    done = call_here(Program("train", "dinojax"), *flags, cwd=tmp_path)
    assert "3 columns; choose that of the names with --column)," in done.out


def test_prepare_counts(pair, tmp_path):
    columns = "--column=name", "--count-column=births"
    done = call_here(
        Program("prepare", "dinojax"), "dinos", f"--data={pair[0]}", *columns, cwd=tmp_path
    )
    assert "in 9 names" in done.out
    assert ", ".join(NOTES) in done.out
    done = call_here(
        Program("prepare", "dinojax"), "text", f"--data={pair[0]}", *columns, cwd=tmp_path
    )
    assert done.code == 2
    assert "error: --column: for a list of names; a text has none" in done.err
