"""The sources of Python's standard library as a text."""

import sys
import sysconfig
from pathlib import Path

import pytest

from dinojax.data import standard_library
from dinojax.data.reading import read
from dinojax.data.sources import data_files, joint_checksum
from dinojax.data.standard_library import MODULES, is_library, library_files, library_path
from dinojax.files import digest


def test_the_modules_are_sorted_files_of_this_python():
    assert sorted(set(MODULES)) == MODULES
    assert set(MODULES) <= sys.stdlib_module_names
    files = library_files(library_path())
    folder = Path(sysconfig.get_path("stdlib"))
    assert files == [folder / f"{name}.py" for name in MODULES]
    assert 2e6 < sum(file.stat().st_size for file in files) < 8e6


def test_they_are_read_as_documents_and_always_alike(monkeypatch):
    monkeypatch.setattr(standard_library, "MODULES", ["abc", "bisect", "heapq"])
    contents = [
        Path(sysconfig.get_path("stdlib"), f"{name}.py").read_bytes()
        for name in ("abc", "bisect", "heapq")
    ]
    for _ in range(2):
        reading = read([library_path()], is_text=True, lowercase=False)
        with pytest.raises(StopIteration) as end:
            next(reading)
        corpus = end.value.value
        assert list(corpus.data.documents()) == [each.decode() for each in contents]
        assert corpus.sha256 == joint_checksum(list(map(digest, contents)))


def test_a_path_stands_for_them():
    version = sys.version.split()[0]
    assert str(library_path()) == f"Python {version} standard library"
    assert data_files([library_path()]) == library_files(library_path())
    assert is_library(Path("Python 3.99.0rc1 standard library"))
    assert not any(
        map(is_library, map(Path, ("-", "dinos.txt", "my/Python 3.11 standard library")))
    )


def test_the_library_of_another_python_or_a_part_of_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"^expected the Python 2\.7\.1 standard library, but "):
        data_files([Path("Python 2.7.1 standard library")])
    for name in MODULES[:3]:
        (tmp_path / f"{name}.py").touch()
    with pytest.raises(ValueError, match=f"{MODULES[3]}.py is missing; give another text"):
        library_files(library_path(), tmp_path)
