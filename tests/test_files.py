"""Files of the user's own are neither lost, nor opened to others, nor waited for."""

import os
import stat
import subprocess
import sys

import pytest

from dinojax import files

# Ends while it writes a file, as if it were killed.
VICTIM = """
import os, sys
from pathlib import Path
from dinojax import files
with files.atomic_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os._exit(9)
"""


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    path = tmp_path / "file"
    umask = os.umask(0o022)
    try:
        files.write_atomically(path, b"old")
        assert mode(path) == 0o644
        for permissions in 0o600, 0o664, 0o444, 0o000:
            path.chmod(permissions)
            with files.atomic_file(path):
                (temporary,) = set(tmp_path.iterdir()) - {path}
                assert mode(temporary) == permissions
            assert mode(path) == permissions
    finally:
        os.umask(umask)


def test_nobody_can_put_a_link_where_a_temporary_file_will_be(tmp_path, monkeypatch):
    path, users = tmp_path / "file", tmp_path / "users"
    users.write_text("mine")
    names = set()
    for _ in range(3):
        with files.atomic_file(path):
            (temporary,) = set(tmp_path.iterdir()) - {path, users}
            names.add(temporary.name)
    assert len(names) == 3
    # Not even somebody who foresees the name.
    monkeypatch.setattr(os, "urandom", bytes)
    with files.atomic_file(path):
        (temporary,) = set(tmp_path.iterdir()) - {path, users}
    temporary.symlink_to(users)
    with pytest.raises(FileExistsError, match="file"):
        files.write_atomically(path, b"new")
    assert users.read_text() == "mine"


def test_the_longest_names_can_be_written_and_longer_ones_are_found_at_once(tmp_path):
    longest = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    files.check_writable(longest)
    files.write_atomically(longest, b"new")
    assert longest.read_bytes() == b"new"
    longest.unlink()
    with pytest.raises(OSError, match="too long"):
        files.check_writable(longest.with_name(longest.name + "x"))
    with pytest.raises(IsADirectoryError) as error:
        files.check_writable(tmp_path)
    assert error.value.filename == str(tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_a_killed_process_was_writing_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "file"
    subprocess.run([sys.executable, "-c", VICTIM, path], check=False)
    (left,) = tmp_path.iterdir()
    assert left.read_bytes() == b"half"
    # A process that runs: the one that started this one.
    other = left.with_name(left.name.replace(left.name.split(".")[2], str(os.getppid())))
    other.write_text("half")
    files.remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [other]


def test_only_regular_files_are_read_and_nothing_is_waited_for(tmp_path):
    path, pipe = tmp_path / "file", tmp_path / "pipe"
    path.write_text("text")
    (tmp_path / "link").symlink_to(path)
    assert files.read_regular(tmp_path / "link") == b"text"
    os.mkfifo(pipe)
    for special in pipe, files.Path("/dev/zero"):
        with pytest.raises(OSError, match="expected a regular file, got a pipe") as error:
            files.read_regular(special)
        assert error.value.filename == str(special)
    for missing in tmp_path, tmp_path / "none":
        with pytest.raises(OSError, match=missing.name):
            files.read_regular(missing)
