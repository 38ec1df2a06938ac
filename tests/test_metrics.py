import json
import os
import re
import resource

import pytest

from dinojax.runs.metrics import METRICS_FILE, append_metrics, read_metrics, rewind_metrics

LINES = [
    {"step": 4, "training_loss": 0.1 + 0.2, "validation_loss": None},
    {"step": 8, "training_loss": 1e-300, "validation_loss": 2.5},
    {"event": "resumed", "step": 8, "steps": 20},
    {"step": 12, "training_loss": 3, "note": '\u00e9\u2028\x85\U0001f995\n"\\ \x00'},
]


def write(folder, lines=LINES):
    for line in lines:
        append_metrics(folder, line)
    return folder / METRICS_FILE


def as_text(line):
    return json.dumps(line, ensure_ascii=False) + "\n"


def test_lines_come_back_as_appended(tmp_path):
    path = write(tmp_path)
    assert read_metrics(tmp_path) == LINES
    assert path.read_bytes().decode() == "".join(map(as_text, LINES))
    assert path.read_bytes().count(b"\n") == len(LINES)
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_each_line_is_written_as_soon_as_it_is_appended(tmp_path):
    for i, line in enumerate(LINES, start=1):
        append_metrics(tmp_path, line)
        assert read_metrics(tmp_path) == LINES[:i]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_not_finite_is_refused_and_nothing_written(value, tmp_path):
    path = write(tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        append_metrics(tmp_path, {"step": 16, "loss": value})
    assert path.read_bytes() == before


def test_a_torn_last_line_is_ignored_and_removed_wherever_it_was_torn(tmp_path):
    path = write(tmp_path)
    whole = path.read_bytes()
    start = len(whole) - len(as_text(LINES[-1]).encode())
    for end in range(start, len(whole)):
        path.write_bytes(whole[:end])
        assert read_metrics(tmp_path) == LINES[:-1]
        assert path.read_bytes() == whole[:end]
        assert rewind_metrics(tmp_path, 12) == LINES[:-1]
        assert path.read_bytes() == whole[:start]
        append_metrics(tmp_path, LINES[-1])
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    "bad",
    [
        *(b"", b"{", b'{"step": 1', b"[1]", b"5", b'"step"', b"\xff", b'{"step": 1}}', b"\0" * 9),
        *(b'{"step": "1"}', b'{"step": null}', b'{"step": true}', b'{"step": 1.5}', b"{}"),
    ],
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_bad_line_that_is_not_the_last_is_named(place, bad, tmp_path):
    path = write(tmp_path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:place], bad, *lines[place:]]))
    before = path.read_bytes()
    message = re.escape(f"{path}, line {place + 1}: expected a JSON object")
    with pytest.raises(ValueError, match=message):
        read_metrics(tmp_path)
    with pytest.raises(ValueError, match=message):
        rewind_metrics(tmp_path, 100)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seconds", value) for value in ("1e400", "NaN", "null", '"1"', "true", "[1]", "-1")),
        ("characters", "9" * 400),
        ("training_seconds", "null"),
        ("training_loss", "-1e40"),
        ("validation_loss", '{"a": 1}'),
        ("gradient_norm", "Infinity"),
        ("epoch", '"one"'),
        ("step", "-1"),
    ],
)
def test_a_value_that_is_no_number_is_named(name, value, tmp_path):
    path = write(tmp_path)
    content = path.read_bytes()
    path.write_text(f'{{"step": 1, "{name}": {value}}}\n')
    for use in read_metrics, lambda folder: rewind_metrics(folder, 100):
        message = rf"metrics\.jsonl, line 1: expected a finite number for {name};"
        with pytest.raises(ValueError, match=message):
            use(tmp_path)
    path.write_bytes(content)
    assert read_metrics(tmp_path) == LINES


def test_deep_lines_and_special_files_are_refused(tmp_path):
    path = tmp_path / METRICS_FILE
    path.write_text("[" * 200_000 + "\n")
    with pytest.raises(ValueError, match="line 1: expected a JSON object"):
        read_metrics(tmp_path)
    path.unlink()
    os.mkfifo(path)
    for use in read_metrics, lambda folder: rewind_metrics(folder, 100):
        with pytest.raises(OSError, match="expected a regular file"):
            use(tmp_path)


def test_the_largest_values_that_a_line_may_have_can_be_drawn(tmp_path):
    from dinojax.plots.losses import plot_runs
    from dinojax.plots.style import save

    largest = dict.fromkeys(("characters", "seconds", "training_loss"), 1e39)
    left = tmp_path / ".dinojax-0123456789abcdef.999999999.tmp"
    left.write_text("half a picture of a process that was killed")
    write(tmp_path, [{"step": 1, **dict.fromkeys(largest, 0)}, {"step": 2, **largest}])
    save(plot_runs([tmp_path]), tmp_path / "loss")
    assert not left.exists()
    write(tmp_path, [{"step": 3, **largest, "validation_loss": -1e39}])
    assert len(save(plot_runs([tmp_path]), tmp_path / "loss")) == 2


@pytest.mark.parametrize(
    ("step", "num"), [(-1, 0), (0, 0), (3, 0), (4, 1), (7, 1), (8, 3), (11, 3), (12, 4), (10**9, 4)]
)
def test_rewinding_keeps_the_lines_up_to_a_step(step, num, tmp_path):
    path = write(tmp_path)
    assert rewind_metrics(tmp_path, step) == LINES[:num]
    assert read_metrics(tmp_path) == LINES[:num]
    assert path.read_text("utf-8") == "".join(map(as_text, LINES[:num]))
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_rewinding_creates_a_missing_file(tmp_path):
    assert rewind_metrics(tmp_path, 5) == []
    assert (tmp_path / METRICS_FILE).read_bytes() == b""
    assert read_metrics(tmp_path) == []


def test_reading_no_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path)


def test_a_rewinding_that_fails_leaves_the_lines(tmp_path, monkeypatch):
    path = write(tmp_path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="no space"):
        rewind_metrics(tmp_path, 4)
    assert path.read_bytes() == before


def test_a_line_that_cannot_be_written_names_its_file(tmp_path):
    write(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / METRICS_FILE).stat().st_size, hard))
    try:
        with pytest.raises(OSError, match="too large") as error:
            append_metrics(tmp_path, LINES[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(tmp_path / METRICS_FILE)
