import errno

import pytest

from optimx.training.data.cache import cache_dir, write_atomically
from optimx.training.errors import InputError


def test_the_folder_is_where_the_environment_says(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIMX_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("OPTIMX_CACHE")
    assert cache_dir() == tmp_path / "xdg" / "optimx"


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file"
    seen = []

    def write(file):
        file.write(b"half")
        seen.append(path.exists())
        file.write(b" and half")

    write_atomically(path, write)
    assert (seen, path.read_bytes()) == ([False], b"half and half")

    def fail(file):
        file.write(b"broken")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_bytes() == b"half and half"
    assert [file.name for file in path.parent.iterdir()] == ["file"]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="OPTIMX_CACHE names the cache folder"):
        write_atomically(tmp_path / "file" / "below", lambda file: None)


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fill(file):
        file.write(b"new")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        write_atomically(path, fill)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"
