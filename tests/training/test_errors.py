import pytest

from optimx.training.errors import InputError, StorageError, nearest, unwritable


def test_a_near_name_is_offered_and_otherwise_all_are_listed():
    assert nearest("stepz", ["seed", "steps"]) == "; did you mean steps?"
    assert nearest("qqq", ["seed", "steps"]) == "; known: seed, steps"


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with (
        pytest.raises(InputError, match="/absent/file: cannot be written: No such f"),
        unwritable(InputError, "somewhere"),
    ):
        (tmp_path / "absent" / "file").write_text("")


def test_a_full_disk_is_named_by_what_was_being_written():
    """A real one, though of no size."""
    with (
        pytest.raises(StorageError, match="log: cannot be written: No space left on"),
        unwritable(StorageError, "log"),
        open("/dev/full", "a", buffering=1) as full,
    ):
        full.write("a line\n")
