"""The scripts that complete the arguments of the command in a shell."""

import shutil
import subprocess
import sys

import pytest

from dinojax.cli.main import COMMANDS

from conftest import USERS_ENVIRONMENT


def run_command(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "dinojax", "completion", *arguments],
        env=USERS_ENVIRONMENT | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A function from the name of a shell to the file of its script."""
    pytest.importorskip("shtab")
    folder = tmp_path_factory.mktemp("completion")

    def script(shell):
        path = folder / shell
        if not path.exists():
            result = run_command(shell)
            assert (result.returncode, result.stderr) == (0, "")
            path.write_text(result.stdout)
        return path

    return script


def completions(script, words, cwd):
    """What bash offers for the last of these words."""
    code = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_dinojax; '
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    command = ["bash", "-c", code, script("bash"), "dinojax", *words]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert (result.returncode, result.stderr) == (0, "")
    return set(result.stdout.split())


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_can_read_its_script(shell, script):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    subprocess.run([shell, "-n", script(shell)], check=True, timeout=60)


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash on this machine")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], set(COMMANDS)),
        (["s"], {"sample", "score", "sweep"}),
        (["sample", "runs/dinos", "--max"], {"--max-length", "--max-draws"}),
        (["train", "--cell", "l"], {"lstm", "lru"}),
        (["sweep", "--loss", ""], {"summed", "mean", "runs", "rules.txt"}),
        (["train", "--optimizer", "r"], {"rmsprop", "runs", "rules.txt"}),
        (["train", "text"], {"text", "text-best"}),
        (["train", "ru"], {"runs", "rules.txt"}),
        (["train", "names", "ru"], {"runs", "rules.txt"}),
        (["plot", "run", "--u"], {"--units"}),
        (["plot", "ru"], {"runs", "rules.txt"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
    ],
)
def test_bash_completes_commands_flags_choices_and_files(words, expected, script, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "rules.txt").touch()
    assert completions(script, words, tmp_path) == expected


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish on this machine")
def test_fish_completes_commands_and_flags(script, tmp_path):
    def offered(line):
        code = f"source {script('fish')}; complete -C '{line}'"
        # fish wants a home to write to.
        environment = USERS_ENVIRONMENT | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
        result = subprocess.run(
            ["fish", "--no-config", "-c", code],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            cwd=tmp_path,
            env=environment,
        )
        return {found.split("\t")[0] for found in result.stdout.splitlines()}

    assert offered("dinojax s") == {"sample", "score", "sweep"}
    assert offered("dinojax plot run --u") == {"--units"}


def test_the_script_is_printed_without_jax(tmp_path):
    pytest.importorskip("shtab")
    for module in "jax", "matplotlib":
        (tmp_path / f"{module}.py").write_text(f"raise ImportError('{module} is not needed')")
    result = run_command("bash", PYTHONPATH=f"{tmp_path}:{USERS_ENVIRONMENT.get('PYTHONPATH', '')}")
    assert (result.returncode, result.stderr) == (0, "")


def test_without_shtab_the_remedy_is_named(tmp_path):
    (tmp_path / "shtab.py").write_text("raise ModuleNotFoundError('shtab')")
    result = run_command("bash", PYTHONPATH=f"{tmp_path}:{USERS_ENVIRONMENT.get('PYTHONPATH', '')}")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "dinojax completion: error: shtab is missing; install it: "
        "pip install 'dinojax[completion]'\n"
    )
