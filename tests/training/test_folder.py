import json

import pytest

from optimx.training.errors import InputError
from optimx.training.folder import RunFolder, as_line


def test_a_new_folder_is_made_with_its_parents(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b")
    folder.create()
    assert folder.path.is_dir()
    folder.create()  # nothing in it yet: no other run


def test_a_folder_with_another_run_is_refused(tmp_path):
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(InputError, match="holds another run; optimx resume"):
        RunFolder(tmp_path).create()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file/run: cannot be made: Not a directory"):
        RunFolder(tmp_path / "file" / "run").create()


def test_a_run_has_a_configuration_and_to_sample_a_tokenizer(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"is not a run's folder: no config\.toml"):
        folder.require()
    folder.config.write_text("")
    folder.require()
    with pytest.raises(InputError, match=r"has no tokenizer\.json; put the one"):
        folder.require_tokenizer()
    folder.tokenizer.write_text("")
    folder.require_tokenizer()


def test_a_run_begins_with_its_configuration(tmp_path):
    folder = RunFolder(tmp_path)
    folder.tokenizer.mkdir()
    with pytest.raises(IsADirectoryError):
        folder.begin("a tokenizer", "a configuration")
    assert not folder.config.exists()  # it can be started again
    folder.tokenizer.rmdir()
    folder.create()
    folder.begin("a tokenizer", "a configuration")
    assert folder.tokenizer.read_text() == "a tokenizer"
    assert folder.config.read_text() == "a configuration"


def test_lines_after_the_checkpoint_and_a_cut_line_are_dropped(tmp_path):
    folder = RunFolder(tmp_path)
    lines = [{"step": step, "loss": 0.1 * step} for step in (1, 2, 2, 3, 4)]
    folder.metrics.write_text("".join(map(as_line, lines)) + '{"step": 1, "lo')
    with folder.open_metrics(2) as log:
        log.write(as_line({"step": 3, "loss": 9.0}))
    assert list(folder.read_metrics()) == [*lines[:3], {"step": 3, "loss": 9.0}]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_lines_are_on_disk_as_soon_as_they_are_written(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.open_metrics(0) as log:
        log.write(as_line({"step": 1}))
        assert list(folder.read_metrics()) == [{"step": 1}]


def test_numbers_survive_to_the_last_bit():
    value = 0.1 + 0.2
    assert json.loads(as_line({"loss": value}))["loss"] == value
