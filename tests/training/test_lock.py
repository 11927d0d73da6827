import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from optimx.training.errors import InputError
from optimx.training.folder import RunFolder
from optimx.training.lock import exclusive
from optimx.training.train import resume, train
from training.small import config

HOLD = """
import sys
from pathlib import Path
from optimx.training.lock import exclusive
with exclusive(Path(sys.argv[1]), "another run"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def held(tmp_path):
    """A folder that a real process holds, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout.readline() == "held\n"
    yield tmp_path, process
    process.kill()
    process.communicate()


def test_one_process_writes_a_folder(corpus, held):
    folder, process = held
    line = f"{folder}: another run is writing there at this moment"
    with pytest.raises(InputError) as caught, exclusive(folder, "another run"):
        pass
    assert str(caught.value) == line
    with pytest.raises(InputError) as caught:
        train(config(corpus), RunFolder(folder))
    assert str(caught.value) == line
    (folder / "config.toml").write_text("")
    with pytest.raises(InputError) as caught:
        resume(RunFolder(folder))
    assert str(caught.value) == line
    process.communicate()
    with exclusive(folder, "another run"):
        assert (folder / ".lock").exists()
    assert [path.name for path in folder.iterdir()] == ["config.toml"]


def test_a_killed_process_locks_nobody_out(held):
    folder, process = held
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (folder / ".lock").exists()
    with exclusive(folder, "another run"):
        pass
    assert list(folder.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(InputError, match=r"\.lock: cannot be written: Is a directory"),
        exclusive(tmp_path, "another run"),
    ):
        pass
