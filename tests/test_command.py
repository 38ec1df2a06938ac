"""The command `dinojax`, and what the commands share."""

import os
import shlex
import subprocess
import sys
from functools import cache

import pytest

from dinojax.cli.arguments import ALSO_CALLED, Parser, hint, join_negative_numbers, output_file
from dinojax.cli.main import COMMANDS, answer, module_of
from dinojax.cli.terminal import Program, joined_for_shell, short_path
from dinojax.files import check_writable
from dinojax.runs.description import PARTS

from conftest import QUICK, ROOT, USERS_ENVIRONMENT
from in_process import call_here


def dinojax(*arguments, cwd=None, module="dinojax"):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, timeout=120, env=USERS_ENVIRONMENT | QUICK,
    )  # fmt: skip


@cache
def help_of(name):
    result = dinojax(name, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_names_every_command(arguments):
    result = dinojax(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert all(f"\n  {name}" in result.stdout for name in COMMANDS)
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_version():
    assert dinojax("--version").stdout.startswith("dinojax 0.")


@pytest.mark.parametrize(
    ("argument", "hint"),
    [("trian", "did you mean train?"), ("--steps", "see --help"), ("", "see --help")],
)
def test_an_unknown_command_is_one_line(argument, hint):
    result = dinojax(argument)
    assert (result.returncode, result.stdout) == (2, "")
    assert (
        result.stderr == f"dinojax: error: unknown command {argument or repr(argument)}; {hint}\n"
    )


def test_a_file_that_looks_like_a_flag_is_given_as_a_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-dash.txt").write_text("ada\n")
    for argument, remedy in {
        "-": "standard input: dinojax train names --data -",
        "-dash.txt": "the file of this name: dinojax train ./-dash.txt",
    }.items():
        assert answer(Program("", "dinojax"), argument) == 2
        assert capsys.readouterr().err.endswith(f"unknown command {argument}; {remedy}\n")


def test_an_address_is_told_from_a_path(tmp_path):
    for arguments in (["http://a.org/b.txt"], ["names", "--data", "http://a.org/b.txt"]):
        result = call_here(Program("train", "dinojax"), *arguments, cwd=tmp_path)
        assert result.code == 2
        assert "got the address 'http://a.org/b.txt'; download the file first" in result.err


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_names_itself_in_errors(name, tmp_path):
    assert help_of(name).startswith(f"usage: dinojax {name} ")
    result = call_here(Program(name, "dinojax"), "--no-such-flag", cwd=tmp_path)
    assert result.code == 2
    assert result.err.startswith(f"dinojax {name}: error: unknown argument --no-such-flag")
    assert result.err.count("\n") == 1


def test_reading_arguments_does_not_import_jax():
    code = (
        "import sys\nfrom dinojax.cli.main import call\nfrom dinojax.cli.terminal import Program\n"
        "for name in sys.argv[1:]:\n"
        "  try: call(Program(name, 'dinojax'), ['--help'])\n"
        "  except SystemExit: assert 'jax' not in sys.modules, name\n"
        "  else: raise AssertionError(name)"
    )
    subprocess.run(
        [sys.executable, "-c", code, *COMMANDS],
        check=True, timeout=60, env=USERS_ENVIRONMENT, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def test_it_trains_in_any_folder_and_says_how_to_continue(tmp_path):
    result = dinojax("train", "--steps", 20, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    more = result.stdout.splitlines()[-1].removeprefix("More names: ")
    words = shlex.split(more)
    assert words[1:] == ["-m", "dinojax", "sample", "runs/dinos", "--num", "20"]
    pasted = subprocess.run(
        ["sh", "-c", more], cwd=tmp_path, capture_output=True, text=True,
        env=USERS_ENVIRONMENT | QUICK,
    )  # fmt: skip
    assert (pasted.returncode, len(pasted.stdout.split("\n"))) == (0, 21)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["sample", "--help"], ["completion", "bash"], ["train", "--out={}/run"]],
)
def test_a_full_disk_is_one_line(arguments, tmp_path):
    arguments = [each.format(tmp_path) for each in arguments]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "dinojax", *arguments],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, env=USERS_ENVIRONMENT,
        )  # fmt: skip
    assert result.returncode == 2
    assert result.stderr.endswith(": error: standard output: No space left on device\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_scripts_are_the_same_commands(name):
    script = ROOT / "scripts" / f"{name}.py"
    text = subprocess.run(
        [sys.executable, script, "--help"],
        capture_output=True, text=True, check=True, env=USERS_ENVIRONMENT,
    ).stdout  # fmt: skip
    expected = help_of(name)
    assert text.split("options:")[1] == expected.split("options:")[1]
    assert len(script.read_text().splitlines()) < 10


def test_lines_to_paste_name_the_program_that_the_user_ran(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    installed = tmp_path / "bin" / "dinojax"
    installed.write_text("#!/bin/sh\n")
    installed.chmod(0o755)
    program = Program("train", str(installed))
    assert program.name == "dinojax train"
    assert program.shell_line("sample", "my run") == "bin/dinojax sample 'my run'"
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    assert program.shell_line("sample", "run") == "dinojax sample run"
    script = Program("train", "scripts/train.py")
    assert script.name == "train.py"
    assert shlex.split(script.shell_line("sample", "run"))[1:] == ["scripts/sample.py", "run"]


def test_each_command_has_a_script():
    # The completion script of a shell is for the command.
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")}
    assert {*COMMANDS} - scripts == {"completion"}


@pytest.mark.parametrize(
    ("command", "flag", "meant"),
    [
        ("train", "--lr", "--learning-rate"),
        ("train", "--hidden", "--hidden-size"),
        ("train", "--ema", "--average-share"),
        ("train", "--mogrifier", "--mogrifier-rounds"),
        ("train", "--layers", "--num-layers"),
        ("train", "--batch", "--batch-size"),
        ("train", "--dropout-rate", "--dropout"),
        ("train", "--learning_rate", "--learning-rate"),
        ("train", "--checkpoint", "--resume"),
        ("sample", "--checkpoint", "--which"),
        ("sample", "--temp", "--temperature"),
        ("sample", "--num-samples", "--num"),
        ("evaluate", "--num-samples", "--samples"),
        ("sweep", "--trials", "--search"),
    ],
)
def test_what_other_programs_call_a_flag_is_understood(command, flag, meant):
    assert hint(flag, flags_of(command)) == f"did you mean {meant}?"


@pytest.mark.parametrize("flag", ["--nonsense", "--qqqq", "--"])
def test_what_is_like_no_flag_gets_no_suggestion(flag):
    assert hint(flag, flags_of("train")) == "see --help"


def flags_of(command):
    parser = Parser(Program(command, "dinojax"), "")
    module_of(command).add_arguments(parser)
    return {name: action for action in parser._actions for name in action.option_strings}


def test_every_flag_with_other_names_exists():
    known = set().union(*map(flags_of, COMMANDS))
    assert ALSO_CALLED.keys() <= known


def test_no_help_shows_two_defaults():
    for command in COMMANDS:
        for action in flags_of(command).values():
            assert (action.help or "").count("default:") <= 1, (command, action.help)


def test_lines_are_quoted_for_the_shell_of_the_system(monkeypatch):
    words = ["dinojax", "sample", "my run", "--prompt", 'say "hi"', "it's"]
    assert shlex.split(joined_for_shell(words)) == words
    # Apart from these two words, no shell needs quotes.
    monkeypatch.setattr("os.name", "nt")
    line = joined_for_shell(words)
    monkeypatch.undo()
    assert line == 'dinojax sample "my run" --prompt "say \\"hi\\"" it\'s'


def test_negative_numbers_belong_to_the_flag_before_them():
    assert join_negative_numbers(["--rate", "-1e-3", "-2", "-x"]) == ["--rate=-1e-3", "-2", "-x"]
    assert join_negative_numbers(["--names", "-5", "-.6"]) == ["--names", "-5", "-.6"]
    assert join_negative_numbers(["-3", "--rate", "5", "-inf"]) == ["-3", "--rate", "5", "-inf"]


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "run").mkdir()
    for name in "checkpoint-000000009.npz", "train.txt", "config.json", "loss.png":
        (tmp_path / "run" / name).touch()
    return tmp_path / "run"


def test_an_output_is_no_file_of_a_run_and_no_input(run_folder, tmp_path):
    link, pipe, given = tmp_path / "link", tmp_path / "pipe", tmp_path / "names.txt"
    link.symlink_to(run_folder / "train.txt")
    os.mkfifo(pipe)
    given.touch()
    of_run = ["checkpoint-000000009.npz", "checkpoint-000000010.npz", "metrics.jsonl", ".lock"]
    of_run += [f"{part}.txt" for part in PARTS]
    for file in [link, pipe, tmp_path, given, *(run_folder / name for name in of_run)]:
        with pytest.raises(ValueError, match=f"^--out: {file} is "):
            output_file("--out", file, [given])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "names.txt", "pipe", "run"]
    for file in run_folder / "new.txt", run_folder / "loss.png", tmp_path / "train.txt":
        assert output_file("--out", file, [given]) == file
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere")
    assert output_file("--out", link) == tmp_path / "elsewhere"


@pytest.mark.parametrize("command", ["sample", "reproduce"])
def test_no_command_replaces_a_file_of_a_run(command, run_folder):
    flag = {"sample": "--out", "reproduce": "--json"}[command]
    arguments = ["none"] if command == "sample" else []
    result = dinojax(command, *arguments, flag, run_folder / "train.txt")
    assert result.returncode == 2
    assert f"{flag}: {run_folder / 'train.txt'} is a file of a run" in result.stderr
    assert (run_folder / "train.txt").read_bytes() == b""


def test_checking_whether_a_file_can_be_written_leaves_no_trace(tmp_path):
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("text")
    check_writable(new)
    check_writable(old)
    assert not new.exists()
    assert old.read_text() == "text"
    with pytest.raises(OSError, match="none"):
        check_writable(tmp_path / "none" / "file")


def test_a_path_is_short_also_where_the_current_folder_is_gone(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    assert short_path(here / "run") == "run"
    assert short_path("-run") == "./-run"
    here.rmdir()
    assert short_path(here / "run") == str(here / "run")
    assert short_path("-run") == "./-run"


def test_a_path_on_another_drive_of_windows_stays_absolute(tmp_path, monkeypatch):
    def relpath(path):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr("os.path.relpath", relpath)
    assert short_path(tmp_path / "run") == str(tmp_path / "run")
